import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { freePort } from '@ckpt/testing'
import { z } from 'zod'

const answerSchema = z.union([
  z.object({ error: z.string(), traceback: z.string() }),
  z.object({ ready: z.literal(true), version: z.string() }),
  z.object({ milliseconds: z.number(), peakDeviceBytes: z.number().optional() }),
])
type Answer = z.infer<typeof answerSchema>

const SCRIPT = fileURLToPath(new URL('./checkpoint_engine_ranks.py', import.meta.url))

/** A rank of checkpoint-engine in a separate process: one call at a time. */
class PeerRank {
  readonly #child: ChildProcess
  readonly #name: string
  readonly #waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void }[] = []
  #stderr = ''
  readonly ready: Promise<Answer>

  constructor(python: string, rank: number, size: number, port: number, engine: string) {
    this.#name = `checkpoint-engine rank ${rank}`
    const where = { RANK: String(rank), WORLD_SIZE: String(size), MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port) }
    this.#child = spawn(python, [SCRIPT, engine], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...where },
    })
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => (this.#stderr = (this.#stderr + text).slice(-6000)))
    this.#child.stdin!.on('error', () => undefined) // its exit is reported
    this.ready = this.#answer()
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      const waiting = this.#waiting.shift()
      try {
        waiting?.resolve(answerSchema.parse(JSON.parse(line)))
      } catch (error) {
        waiting?.reject(CkptError.from(error, 'NATIVE_FAILURE', `${this.#name} printed ${line.slice(0, 200)}`))
      }
    })
    this.#child.on('error', (error) => this.#fail(error.message))
    this.#child.on('exit', (code, signal) => this.#fail(`exited (${signal ?? code}): ${this.#stderr}`))
  }

  async call(
    call: string,
    args: Record<string, unknown>,
  ): Promise<{ milliseconds: number; peakDeviceBytes?: number | undefined }> {
    const answered = this.#answer()
    this.#child.stdin!.write(`${JSON.stringify({ call, arguments: args })}\n`)
    const answer = await answered
    if ('milliseconds' in answer) return answer
    const text = 'error' in answer ? `${answer.error}\n${answer.traceback}` : 'it began again'
    throw new CkptError('NATIVE_FAILURE', `${this.#name}: ${call}: ${text}`)
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.stdin!.end()
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 5000)
    await gone
    clearTimeout(timer)
  }

  #answer(): Promise<Answer> {
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  #fail(text: string): void {
    for (const { reject } of this.#waiting.splice(0)) reject(new CkptError('NATIVE_FAILURE', `${this.#name} ${text}`))
  }
}

/** Slowest rank's time of a call, and the maximum device memory that a rank allocated. */
export interface PeerCall {
  readonly milliseconds: number
  readonly peakDeviceBytes: number
}

/** Ranks of checkpoint-engine from PyPI, a process each, with one `ParameterServer` that lives as long as the process. */
export class PeerRanks implements AsyncDisposable {
  readonly #ranks: readonly PeerRank[]
  #version = 'unknown'

  private constructor(ranks: readonly PeerRank[]) {
    this.#ranks = ranks
  }

  /**
   * Starts a rank for each engine: the control socket of the rank's engine worker, or the URL of the vLLM server whose workers
   * all ranks update together. @throws CkptError `NATIVE_FAILURE` with the output of a process.
   */
  static async start(python: string, engines: readonly string[]): Promise<PeerRanks> {
    const port = await freePort()
    const ranks = new PeerRanks(engines.map((engine, rank) => new PeerRank(python, rank, engines.length, port, engine)))
    try {
      await ranks.#ready()
      return ranks
    } catch (error) {
      await ranks[Symbol.asyncDispose]()
      throw error
    }
  }

  async #ready(): Promise<void> {
    const [first] = await Promise.all(this.#ranks.map((rank) => rank.ready))
    if (first !== undefined && 'version' in first) this.#version = first.version
  }

  get version(): string {
    return this.#version
  }

  /** Makes one call on every rank at once; the slowest rank's time counts. */
  async all(call: string, argument: (rank: number) => Record<string, unknown> = () => ({})): Promise<PeerCall> {
    const answers = await Promise.all(this.#ranks.map((rank, index) => rank.call(call, argument(index))))
    return {
      milliseconds: Math.max(...answers.map(({ milliseconds }) => milliseconds)),
      peakDeviceBytes: Math.max(...answers.map(({ peakDeviceBytes = 0 }) => peakDeviceBytes)),
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#ranks.map((rank) => rank.stop()))
  }
}
