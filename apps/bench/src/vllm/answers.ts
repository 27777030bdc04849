import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError } from '@ckpt/contract'
import { PROMPTS, type Completion, type VllmServer } from '@ckpt/testing'

/** Tokens of each compared answer. */
const TOKENS = 16
/** Time for a server to see that a client has ended its stream. */
const SETTLE_MS = 100
const DEADLINE_MS = 30_000
/** A prompt of its own, whose answer nobody compares. */
const THROWAWAY = [[3, 1, 4]] as const

/** Greedy answers of a server for the bench's prompts: tokens, and log probabilities digit for digit. */
export async function answersOf(server: VllmServer): Promise<readonly Completion[]> {
  await server.post('/reset_prefix_cache', undefined)
  return server.complete(PROMPTS, TOKENS)
}

/** Returns true if both servers' answers are the same in every token and digit. */
export function sameAnswers(left: readonly Completion[], right: readonly Completion[]): boolean {
  return left.length > 0 && JSON.stringify(left) === JSON.stringify(right)
}

/**
 * Waits until a server runs no request: others in the same batch could change the last digits of an answer.
 *
 * @throws CkptError `ENGINE_PROTOCOL` if it still does after half a minute.
 */
export async function idle(server: VllmServer): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS
  for (;;) {
    await sleep(SETTLE_MS)
    // The engine takes what it is told in order, and counts again when it has answered.
    await server.complete(THROWAWAY, 1)
    const running = runningRequests(await metricsOf(server))
    if (running === 0 || running === undefined) return
    if (performance.now() > deadline) {
      throw new CkptError('ENGINE_PROTOCOL', `${server.url} still runs ${running} requests after every client has left`)
    }
  }
}

async function metricsOf(server: VllmServer): Promise<string> {
  const answer = await fetch(`${server.url}/metrics`, { signal: AbortSignal.timeout(DEADLINE_MS) })
  return answer.ok ? answer.text() : ''
}

/** Reads vLLM's own count of running requests, all engines together; undefined if it has none. */
export function runningRequests(metrics: string): number | undefined {
  const counts = [...metrics.matchAll(/^vllm:num_requests_running(?:\{[^}]*\})? (\S+)$/gm)].map(([, value]) => Number(value))
  return counts.length === 0 ? undefined : counts.reduce((sum, count) => sum + count, 0)
}
