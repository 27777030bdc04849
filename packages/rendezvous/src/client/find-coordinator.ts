import { CkptError, requireSocketDescriptors, startReminders, type CallOptions, type Waiting } from '@ckpt/contract'
import { poll } from '@ckpt/utils'
import { Dealer } from 'zeromq'

import { startDeadline } from '../timers.ts'
import { endpointsOf, isIpv6 } from '../wire/address.ts'
import type { CurveClient } from '../wire/curve.ts'

/** Interval in milliseconds for looking up an unknown name again, and for retrying an endpoint that refused. */
const AGAIN_MS = 200
/** Number of refused handshakes that count as a definite answer. */
const REFUSALS = 3

export interface FindOptions extends Required<Pick<CallOptions, 'timeoutMs'>> {
  readonly rank: number
  readonly signal: AbortSignal | undefined
  readonly onWaiting: ((waiting: Waiting) => void) | undefined
}

/**
 * Finds the coordinator among several addresses, or several addresses of one name: the first endpoint at which a handshake with
 * this run's keys succeeds. Strangers, and coordinators of other runs, are skipped. A single endpoint is returned without a
 * test.
 *
 * @throws CkptError `RANK_MISSING` with the finding at each endpoint, `INVALID_ARGUMENT` if no name is known, `ABORTED`.
 */
export async function findCoordinator(
  addresses: readonly string[],
  curve: CurveClient | undefined,
  options: FindOptions,
): Promise<string> {
  const { timeoutMs, signal, rank, onWaiting } = options
  const began = performance.now()
  let seen: () => string = () => 'looking up its name'
  const stop = startReminders((sinceMs) =>
    onWaiting?.({ what: `the coordinator (rank 0): ${seen()}`, sinceMs, rank, ranks: [0] }),
  )
  try {
    const endpoints = await resolved(addresses, timeoutMs, signal)
    if (endpoints.length === 1) return endpoints[0]!
    const search = new Search(endpoints, curve, addresses.length === 1)
    seen = () => search.describe()
    try {
      return await search.first(Math.max(1, timeoutMs - (performance.now() - began)), signal, rank)
    } finally {
      search.close()
    }
  } finally {
    stop()
  }
}

/** A name may become known only when its machine comes up. */
async function resolved(addresses: readonly string[], timeoutMs: number, signal: AbortSignal | undefined): Promise<string[]> {
  let reason: unknown
  const attempt = async (): Promise<string[] | undefined> => {
    const all = await Promise.allSettled(addresses.map(endpointsOf))
    reason = all.find((one) => one.status === 'rejected')?.reason
    const endpoints = all.flatMap((one) => (one.status === 'fulfilled' ? one.value : []))
    return endpoints.length > 0 ? [...new Set(endpoints)] : undefined
  }
  const endpoints = await poll(attempt, { timeoutMs, signal, firstPauseMs: AGAIN_MS, longestPauseMs: AGAIN_MS })
  if (endpoints !== undefined) return endpoints
  throw reason
}

class Search {
  readonly #found = new Map<string, string>()
  readonly #dealers: readonly Dealer[]
  #resolve: (endpoint: string) => void = () => undefined
  readonly #first = new Promise<string>((resolve) => (this.#resolve = resolve))

  constructor(endpoints: readonly string[], curve: CurveClient | undefined, oneAddress: boolean) {
    requireSocketDescriptors(`the search for the coordinator at ${endpoints.join(' or ')}`)
    this.#dealers = endpoints.map((endpoint) => {
      const dealer = new Dealer({ ipv6: isIpv6(endpoint), linger: 0, reconnectInterval: AGAIN_MS, ...curve })
      this.#found.set(endpoint, 'nothing answers')
      // Events must be read until the end, because ZeroMQ's thread waits for their reader.
      this.#watch(dealer, endpoint, oneAddress).catch(() => undefined)
      try {
        dealer.connect(endpoint)
      } catch (error) {
        this.#found.set(endpoint, (error as Error).message)
      }
      return dealer
    })
  }

  async #watch(dealer: Dealer, endpoint: string, oneAddress: boolean): Promise<void> {
    let refused = 0
    for await (const { type } of dealer.events) {
      if (type === 'connect') this.#found.set(endpoint, 'something accepts connections, but has not greeted as a coordinator')
      else if (type === 'handshake') this.#resolve(endpoint)
      else if (type.startsWith('handshake:error')) {
        this.#found.set(endpoint, 'not the coordinator of this run (a different service, run or token)')
        // A rank that joins there gets a more specific error. Among several addresses the coordinator may still come up at a
        // different one.
        if (oneAddress && ++refused === REFUSALS) this.#resolve(endpoint)
      }
    }
  }

  async first(timeoutMs: number, signal: AbortSignal | undefined, rank: number): Promise<string> {
    let settle = (): void => undefined
    try {
      return await new Promise<string>((resolve, reject) => {
        const stop = startDeadline(timeoutMs, () => {
          const text = `rank ${rank}: no coordinator (rank 0) of this run within ${Math.round(timeoutMs)} ms: ${this.describe()}`
          reject(new CkptError('RANK_MISSING', text, { fields: { rank, ranks: [0], peers: [...this.#found.keys()] } }))
        })
        const cancel = () => reject(CkptError.from(signal?.reason, 'ABORTED', 'the search for the coordinator was cancelled'))
        settle = () => {
          stop()
          signal?.removeEventListener('abort', cancel)
        }
        if (signal?.aborted) return cancel()
        signal?.addEventListener('abort', cancel, { once: true })
        void this.#first.then(resolve)
      })
    } finally {
      settle()
    }
  }

  /** Describes what was found at each endpoint. */
  describe(): string {
    return [...this.#found].map(([endpoint, what]) => `${endpoint} ${what}`).join('; ')
  }

  close(): void {
    for (const dealer of this.#dealers) dealer.close()
  }
}
