import { hostname } from 'node:os'
import type { ParameterServer, PastUpdate } from '@ckpt/core'
import { z } from 'zod'

/** Minimum interval in milliseconds between reports of a rank. */
const INTERVAL_MS = 500
/** Deadline of the coordinator's answer. */
const TIMEOUT_MS = 5000
const MAX_TEXT = 300
const MAX_CHECKPOINTS = 20

const text = z.string()
const report = z.object({
  ...{ state: text, reasons: z.array(text), device: text },
  engines: z.array(z.object({ engine: text, version: text.nullable(), dirty: z.boolean(), reason: text.exactOptional() })),
  checkpoints: z.array(z.object({ name: text, bytes: z.number() })),
  last: z
    .object({
      ...{ checkpoint: text, version: text, strategy: text, startedMs: z.number(), totalMs: z.number() },
      bytes: z.number().exactOptional(),
      error: z.object({ code: text, message: text }).exactOptional(),
    })
    .nullable(),
})

/** What a rank tells the others about itself. */
export type ClusterReport = z.infer<typeof report>

/** One row of the cluster: a rank of the world. */
export interface ClusterRank {
  readonly rank: number
  /** `missing`: it has never joined. */
  readonly membership: 'member' | 'lost' | 'missing'
  readonly why?: string
  readonly host?: string
  readonly pid?: number
  readonly silentMs?: number
  readonly links: readonly string[]
  /** Absent if the rank serves no page, or runs an older release. */
  readonly report?: ClusterReport
}

const short = (long: string) => (long.length > MAX_TEXT ? `${long.slice(0, MAX_TEXT - 1)}…` : long)

function lastOf(update: PastUpdate | undefined): ClusterReport['last'] {
  if (update === undefined) return null
  const { checkpoint, version, strategy, startedMs, totalMs, bytes, error } = update
  return {
    ...{ checkpoint: short(checkpoint), version: short(version), strategy, startedMs, totalMs },
    ...(bytes !== undefined && { bytes }),
    ...(error && { error: { code: error.code, message: short(error.message) } }),
  }
}

function ownReport(server: ParameterServer): ClusterReport {
  const { state, reasons } = server.health()
  const { checkpoints, history } = server.activity
  const own = server.engineStates().filter(({ rank }) => rank === server.rank)
  return {
    ...{ state, reasons: reasons.slice(0, 5).map(short), device: server.device.uuid, last: lastOf(history[0]) },
    engines: own.slice(0, 8).map(({ engine, version, dirty, reason }) => {
      const why = reason === undefined ? {} : { reason: short(reason) }
      return { engine: short(engine), version: version === null ? null : short(version), dirty, ...why }
    }),
    checkpoints: checkpoints.slice(0, MAX_CHECKPOINTS).map(({ name, bytes }) => ({ name: short(name), bytes })),
  }
}

/** Reports this rank to the coordinator now and whenever what others are told changes. Returns a function that stops this. */
export function reportRank(server: ParameterServer): () => void {
  let sent = ''
  let timer: NodeJS.Timeout | undefined
  const send = () => {
    timer = undefined
    const now = JSON.stringify(ownReport(server))
    if (now === sent) return
    try {
      server.report(Buffer.from(now))
      sent = now
    } catch {
      // The membership is lost; the next change comes after it has joined again.
    }
  }
  const changed = () => void (timer ??= setTimeout(send, INTERVAL_MS).unref())
  server.activity.on('change', changed)
  send()
  return () => {
    clearTimeout(timer)
    server.activity.off('change', changed)
  }
}

/** Returns every rank of the world, as the coordinator knows it. @throws CkptError `RANK_LOST`, `TIMEOUT`. */
export async function clusterState(server: ParameterServer) {
  const known = new Map((await server.reports({ timeoutMs: TIMEOUT_MS })).map((one) => [one.rank, one]))
  const links = new Map(server.activity.members.map((one) => [one.rank, one.links ?? []]))
  const ranks = Array.from({ length: server.worldSize }, (_, rank): ClusterRank => {
    const found = known.get(rank)
    if (found === undefined) return { rank, membership: 'missing', links: [] }
    const { host, pid, silentMs, lost, payload } = found
    return {
      ...{ rank, membership: lost === undefined ? 'member' : 'lost', host, pid, silentMs, links: links.get(rank) ?? [] },
      ...(lost !== undefined && { why: lost }),
      ...readReport(payload),
    }
  })
  // eslint-disable-next-line no-restricted-properties -- for people to read
  return { now: Date.now(), rank: server.rank, host: hostname(), worldSize: server.worldSize, ranks }
}

function readReport(payload: Uint8Array | undefined): { report?: ClusterReport } {
  if (payload === undefined) return {}
  try {
    return { report: report.parse(JSON.parse(Buffer.from(payload).toString('utf8'))) }
  } catch {
    return {}
  }
}
