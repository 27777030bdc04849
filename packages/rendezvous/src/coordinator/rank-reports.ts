import type { RankReport } from '@ckpt/contract'
import { z } from 'zod'

import { pack, protocolError, unpack } from '../wire/messages.ts'
import type { Member } from './members.ts'

/** Key under which a rank publishes its report, and under which the reports of all are fetched. */
export const REPORT_KEY = 'rank-report'
export const REPORTS_KEY = 'rank-reports'
/** Maximum bytes of one report. */
export const MAX_REPORT_BYTES = 16 * 1024

/** Latest reports of ranks: one a rank, each of limited size. */
export class RankReports {
  readonly #payloads = new Map<number, Uint8Array>()

  /** A report over the limit is dropped: nobody waits for it. */
  put({ rank }: Member, payload: Uint8Array): void {
    if (payload.byteLength <= MAX_REPORT_BYTES) this.#payloads.set(rank, payload)
  }

  /** Encodes what is known of these members. */
  encode(members: readonly Member[]): Uint8Array {
    const now = performance.now()
    return pack(
      members.map(({ rank, host, pid, gone, heard }) => {
        const payload = this.#payloads.get(rank)
        const lost = gone && { lost: gone.message }
        return { rank, host, pid, silentMs: Math.round(now - heard), ...lost, ...(payload && { payload }) }
      }),
    )
  }
}

const reports = z.array(
  z.object({
    ...{ rank: z.int().min(0), host: z.string(), pid: z.int(), silentMs: z.number() },
    ...{ lost: z.string().exactOptional(), payload: z.instanceof(Uint8Array).exactOptional() },
  }),
)

/** Decodes what {@link RankReports.encode} encoded. @throws CkptError `RENDEZVOUS_PROTOCOL`. */
export function decodeReports(bytes: Uint8Array | undefined, peer: string): RankReport[] {
  // An older coordinator keeps no reports.
  if (bytes === undefined) return []
  try {
    return reports.parse(unpack(bytes))
  } catch (error) {
    throw protocolError(peer, 'its reports of ranks are malformed', error)
  }
}
