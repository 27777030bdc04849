import { CkptError, ContiguousCopies, type ContiguousCopy, type HostMemory, type Reach, type ReachedRank } from '@ckpt/contract'

/** Access to ranks of other hosts. */
export interface RemoteAccess {
  readonly reach: Reach
  readonly timeoutMs: number
}

/** Reads runs of bytes out of the registered memory of ranks of other hosts. */
export class RemoteReader {
  readonly #access: RemoteAccess
  readonly #sources: readonly { readonly rank: number; readonly segment: number }[]
  readonly #reached = new Map<number, Promise<ReachedRank>>()

  constructor(access: RemoteAccess, sources: readonly { readonly rank: number; readonly segment: number }[]) {
    this.#access = access
    this.#sources = sources
  }

  /** Connects to these ranks, so that unreadable ones are known before anything is written. @throws CkptError as for `read`. */
  async connect(ranks: Iterable<number>, signal: AbortSignal): Promise<void> {
    const reach = async (rank: number): Promise<void> => {
      try {
        await this.#peer(rank, signal)
      } catch (error) {
        throw ofRank(error, rank, `connecting to rank ${rank}`)
      }
    }
    await Promise.all([...new Set(ranks)].map(reach))
  }

  /**
   * Reads into `memory`; sources of `reads` are those that the reader was created for. No byte arrives after it settles.
   *
   * @throws CkptError `PEER_LOST`, `REGION_REFUSED`, `PEER_UNAUTHORIZED`, `UNSUPPORTED` naming the rank; `ABORTED`.
   */
  async read(reads: ContiguousCopies, memory: HostMemory, signal: AbortSignal): Promise<void> {
    const byRank = new Map<number, ContiguousCopy[]>()
    for (const read of reads) {
      const { rank, segment } = this.#sources[read.source]!
      let transfers = byRank.get(rank)
      if (transfers === undefined) byRank.set(rank, (transfers = []))
      transfers.push({ ...read, source: segment })
    }
    const outcomes = await Promise.allSettled([...byRank].map(([rank, list]) => this.#readFrom(rank, list, memory, signal)))
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
  }

  async close(): Promise<void> {
    const reached = await Promise.allSettled(this.#reached.values())
    await Promise.all(reached.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value.peer.close()] : [])))
  }

  async #readFrom(rank: number, transfers: readonly ContiguousCopy[], memory: HostMemory, signal: AbortSignal): Promise<void> {
    const { timeoutMs } = this.#access
    try {
      const { peer, point } = await this.#peer(rank, signal)
      await peer.read({
        regions: point.regions,
        memories: [memory],
        transfers: ContiguousCopies.from(transfers),
        timeoutMs,
        signal,
      })
    } catch (error) {
      this.#forget(rank)
      const bytes = transfers.reduce((sum, one) => sum + one.bytes, 0)
      throw ofRank(error, rank, `reading ${bytes} bytes of rank ${rank}`)
    }
  }

  async #peer(rank: number, signal: AbortSignal): Promise<ReachedRank> {
    const known = this.#reached.get(rank)
    if (known !== undefined && (await known).peer.alive) return known
    this.#forget(rank)
    const { reach, timeoutMs } = this.#access
    const reached = reach.connect(rank, { timeoutMs, signal })
    this.#reached.set(rank, reached)
    return reached
  }

  /** Drops the connection, so that the next read connects again. */
  #forget(rank: number): void {
    const known = this.#reached.get(rank)
    this.#reached.delete(rank)
    known?.then(({ peer }) => peer.close()).catch(() => undefined) // an unreachable peer has nothing to close
  }
}

/** Returns an error that names the rank: the endpoint's own knows only its address. */
function ofRank(error: unknown, rank: number, what: string): CkptError {
  const own = CkptError.from(error, 'PEER_LOST')
  if (own.code === 'ABORTED') return own
  return new CkptError(own.code, `${what}: ${own.message}`, { cause: error, fields: { ...own.fields, ranks: [rank] } })
}
