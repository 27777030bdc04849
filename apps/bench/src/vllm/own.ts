import type { UpdateReport } from '@ckpt/core'
import type { Cluster, VllmServer } from '@ckpt/testing'
import type { EngineStrategy } from '../result.ts'
import { slowest } from '../measure/updates.ts'
import type { EngineCheckpoints } from './checkpoints.ts'
import { longestGapMs, TokenStream } from './token-stream.ts'

/** A stream runs before and goes on after an update. */
const TOKENS_BEFORE = 4
const TOKENS_AFTER = 3
const STREAM_TIMEOUT_MS = 60_000
const STREAM_PROMPT = [11, 22, 33, 44, 55]

/** One step of a training loop; times in milliseconds. */
export interface OwnStep {
  readonly registerMs: number
  readonly gatherMetasMs: number
  readonly updateMs: number
  /** A report per rank. */
  readonly reports: readonly UpdateReport[]
  /** Set if tokens were streamed, and arrived before and after the update. */
  readonly longestTokenGapMs?: number
}

export interface OwnOptions {
  readonly cluster: Cluster
  readonly server: VllmServer
  readonly model: string
  readonly ranks: number
  readonly checkpoints: EngineCheckpoints
  /** Longest request of the server, in tokens. */
  readonly maxTokens: number
}

/** ckpt's side: every step unregisters the checkpoint, registers the next one, gathers metas and updates the server. */
export class Own {
  readonly #options: OwnOptions
  #steps = 0
  #registered: string | undefined

  constructor(options: OwnOptions) {
    this.#options = options
  }

  /** Makes one step. With `streamed`, a client streams tokens from before the update until after it. */
  async step(checkpoint: 'A' | 'B', strategy: EngineStrategy, streamed: boolean): Promise<OwnStep> {
    const { cluster, checkpoints } = this.#options
    const name = `step-${++this.#steps}`
    const started = performance.now()
    const earlier = this.#registered
    if (earlier !== undefined) await cluster.all('unregister', () => ({ name: earlier }))
    this.#registered = undefined
    await cluster.register(name, checkpoints[checkpoint].directory, { pool: 'shared', digests: true })
    this.#registered = name
    const registerMs = performance.now() - started
    // With the engine, so that the first call also prepares updates of it.
    const { server, ranks } = this.#options
    const engine = strategy === 'auto' && { vllm: { url: server.url, parallelSize: ranks } }
    const gathered = await cluster.all('gatherMetas', () => ({ name, digests: true, ...engine }))
    const gatherMetasMs = Math.max(...gathered.map(({ milliseconds }) => milliseconds))
    const update = () => this.#update(name, strategy)
    const found = streamed ? await this.#whileStreaming(update) : { reports: await update() }
    return { registerMs, gatherMetasMs, updateMs: slowest(found.reports), ...found }
  }

  #update(name: string, strategy: EngineStrategy): Promise<UpdateReport[]> {
    const { cluster, server, ranks } = this.#options
    // What `update` does without being told is `auto()`.
    const way = { strategy: strategy === 'auto' ? 'default' : 'broadcast' } as const
    return cluster.all('update', () => ({ name, vllm: { url: server.url, parallelSize: ranks }, verify: true, ...way }))
  }

  async #whileStreaming(update: () => Promise<UpdateReport[]>): Promise<Pick<OwnStep, 'reports' | 'longestTokenGapMs'>> {
    const { server, model, maxTokens } = this.#options
    await using stream = TokenStream.start({
      url: server.url,
      model,
      prompt: STREAM_PROMPT,
      maxTokens: maxTokens - STREAM_PROMPT.length,
    })
    await stream.received(TOKENS_BEFORE, 0, STREAM_TIMEOUT_MS)
    const from = performance.now()
    const reports = await update()
    const to = performance.now()
    await stream.received(TOKENS_AFTER, to, STREAM_TIMEOUT_MS)
    const longestTokenGapMs = longestGapMs(stream.arrivals, from, to)
    return { reports, ...(longestTokenGapMs !== undefined && { longestTokenGapMs }) }
  }
}
