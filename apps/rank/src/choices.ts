import { CkptError, type EngineAdapter, type UpdateStrategy, type WorkerProtocol } from '@ckpt/contract'
import { auto, broadcast, controlEngine, direct } from '@ckpt/core'
import { p2p } from '@ckpt/p2p'
import { sglang } from '@ckpt/sglang'
import { vllm, type VllmEvent } from '@ckpt/vllm'
import { defined } from './defined.ts'
import type { Ask } from './messages.ts'
import type { EngineDescription, StrategyDescription } from './schemas.ts'

/**
 * Returns the adapter of a described engine.
 *
 * @param ask lets the client call an engine that only it can call
 * @param onEvent receives what vLLM's adapter reports
 * @throws CkptError `INVALID_ARGUMENT` naming the option.
 */
export function engineOf(
  description: EngineDescription,
  ask: (ask: Ask) => Promise<void>,
  onEvent: (event: VllmEvent) => void,
): EngineAdapter {
  switch (description.kind) {
    case 'vllm': {
      const { kind: _, url, socketPath, tls, ...options } = description
      return vllm({
        ...defined(options),
        ...(url !== undefined && { url: byRank(url, 'url') }),
        ...(socketPath !== undefined && { socketPath: byRank(socketPath, 'socketPath') }),
        ...(tls !== undefined && { tls: defined(tls) }),
        onEvent,
      })
    }
    case 'sglang': {
      const { kind: _, url, socketPath, tls, ...options } = description
      return sglang({
        ...defined(options),
        url: byRank(url, 'url'),
        ...(socketPath !== undefined && { socketPath: byRank(socketPath, 'socketPath') }),
        ...(tls !== undefined && { tls: defined(tls) }),
      })
    }
    case 'control':
      return controlEngine({ socket: byRank(description.socket, 'socket') })
    case 'client':
      return clientEngine(description.protocol, ask)
  }
}

function clientEngine(protocol: WorkerProtocol, ask: (ask: Ask) => Promise<void>): EngineAdapter {
  return {
    name: 'client',
    protocol,
    ready: () => Promise.resolve(),
    start({ rank, endpoints, token, timeoutMs, signal }) {
      const finished = Promise.race([
        ask({ what: 'engine', rank, endpoints, token, timeoutMs }),
        // Its workers are told by their ranks; a call that is made elsewhere may end later.
        aborted(signal),
      ])
      finished.catch(() => undefined) // reported to those that wait for the update
      return Promise.resolve({ finished })
    },
  }
}

/** Rejects when a signal is aborted. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const end = (): void => reject(CkptError.from(signal.reason, 'ABORTED'))
    if (signal.aborted) end()
    else signal.addEventListener('abort', end, { once: true })
  })
}

/** Returns the described strategy; undefined for the default. @throws CkptError `INVALID_ARGUMENT` naming the option. */
export function strategyOf(description: StrategyDescription | undefined): UpdateStrategy | undefined {
  switch (description?.kind) {
    case undefined:
      return undefined
    case 'auto':
      return auto()
    case 'broadcast':
      return broadcast()
    case 'direct': {
      const { kind: _, ...options } = description
      return direct(defined(options))
    }
    case 'p2p': {
      const { kind: _, ...options } = description
      return p2p(defined(options))
    }
  }
}

function byRank(given: string | readonly string[], field: string): string | ((rank: number) => string) {
  if (typeof given === 'string') return given
  return (rank) => {
    const own = given[rank]
    if (own !== undefined) return own
    throw new CkptError('INVALID_ARGUMENT', `${field}: the list has ${given.length} entries, and none for rank ${rank}`, {
      fields: { field, rank },
    })
  }
}
