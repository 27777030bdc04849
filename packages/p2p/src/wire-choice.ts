import {
  CkptError,
  ContiguousCopies,
  type AccessPoint,
  type Host,
  type HostMemory,
  type MeasuredWire,
  type OneSidedPeer,
} from '@ckpt/contract'

/** Bytes of each measured read. */
const PROBE_BYTES = 8 * 2 ** 20
/** Reads for each wire: the first ones pay for registrations and for buffers that grow. */
const READS = 3
/** Time for each read. */
const PROBE_MS = 5000
/** A later wire is chosen only if it is that much faster: short measurements vary. */
const MARGIN = 1.1

/** A connected wire. */
export interface Candidate {
  readonly peer: OneSidedPeer
  readonly point: AccessPoint
}

/** Options of a measurement. */
export interface MeasureOptions {
  /** Creates the memory that is read into. */
  readonly host: Host
  readonly signal: AbortSignal
}

/** Outcome of a measurement: the chosen candidate, and the rates of those that worked, best listed ones first. */
export interface Choice<One> {
  readonly chosen: One
  readonly measured: readonly MeasuredWire[]
}

/**
 * Reads a few MiB of the peer's largest region over each candidate, and returns the fastest; the first listed one if there is
 * nothing to read, or little difference. The others are closed.
 *
 * @throws CkptError the first failure, if no candidate works.
 */
export async function fastestOf<One extends Candidate>(
  candidates: readonly One[],
  { host, signal }: MeasureOptions,
): Promise<Choice<One>> {
  const memory = await host.allocate({ bytes: PROBE_BYTES, lock: false })
  const measured: MeasuredWire[] = []
  let best: { candidate: One; bytesPerSecond: number } | undefined
  let failure: unknown
  try {
    // One after the other: together they would measure each other.
    for (const candidate of candidates) {
      try {
        const bytesPerSecond = await rateOf(candidate, memory, signal)
        measured.push({ kind: candidate.point.endpoint.kind, bytesPerSecond })
        if (best === undefined || bytesPerSecond > MARGIN * best.bytesPerSecond) best = { candidate, bytesPerSecond }
      } catch (error) {
        if (CkptError.is(error, 'ABORTED')) throw error
        failure ??= error
      }
    }
    if (best === undefined) throw failure
    return { chosen: best.candidate, measured }
  } finally {
    const chosen = best?.candidate
    const others = candidates.filter((one) => one !== chosen || signal.aborted)
    await Promise.all(others.map(({ peer }) => peer.close()))
    memory.close()
  }
}

/** Returns the rate of the fastest read, 0 if there is nothing to read. */
async function rateOf({ peer, point }: Candidate, memory: HostMemory, signal: AbortSignal): Promise<number> {
  const { regions } = point
  const source = regions.reduce((best, region, index) => (region.bytes > regions[best]!.bytes ? index : best), 0)
  const bytes = Math.min(PROBE_BYTES, regions[source]?.bytes ?? 0)
  if (bytes === 0) return 0
  const transfers = ContiguousCopies.from([{ source, sourceOffset: 0, destination: 0, destinationOffset: 0, bytes }])
  let milliseconds = Infinity
  for (let i = 0; i < READS; i++) {
    const stats = await peer.read({ regions, memories: [memory], transfers, timeoutMs: PROBE_MS, signal })
    milliseconds = Math.min(milliseconds, stats.milliseconds)
  }
  return (bytes / milliseconds) * 1000
}
