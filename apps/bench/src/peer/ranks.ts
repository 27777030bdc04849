import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { EngineProcess, freePort } from '@ckpt/testing'
import { z } from 'zod'

const answerSchema = z.union([
  z.object({ error: z.string(), traceback: z.string() }),
  z.object({ ready: z.literal(true), version: z.string() }),
  z.object({ milliseconds: z.number(), peakDeviceBytes: z.number().optional() }),
])
type Answer = z.infer<typeof answerSchema>

const script = (name: string) => fileURLToPath(new URL(name, import.meta.url))

/** A rank of checkpoint-engine in a separate process: one call at a time. */
class PeerRank {
  readonly #child: ChildProcess
  readonly #name: string
  readonly #waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void }[] = []
  #stderr = ''
  readonly ready: Promise<Answer>

  constructor(python: string, rank: number, size: number, port: number, engineSocket: string) {
    this.#name = `checkpoint-engine rank ${rank}`
    const where = { RANK: String(rank), WORLD_SIZE: String(size), MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port) }
    this.#child = spawn(python, [script('./checkpoint_engine_ranks.py'), engineSocket], {
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

/** checkpoint-engine from PyPI: a rank and an engine worker per GPU, with the same reference engine as ours. */
export class PeerCluster implements AsyncDisposable {
  readonly version: string
  readonly engines: readonly EngineProcess[]
  readonly #ranks: readonly PeerRank[]
  readonly #directory: string

  private constructor(version: string, engines: readonly EngineProcess[], ranks: readonly PeerRank[], directory: string) {
    this.version = version
    this.engines = engines
    this.#ranks = ranks
    this.#directory = directory
  }

  /** @throws CkptError `NATIVE_FAILURE` or `ENGINE_UNREACHABLE` with the output of a process. */
  static async start(options: { python: string; ranks: number; checkpoint: string }): Promise<PeerCluster> {
    const { python, ranks: size, checkpoint } = options
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-peer-'))
    const port = await freePort()
    const engines = Array.from(
      { length: size },
      (_, rank) =>
        new EngineProcess({
          kind: 'python',
          python,
          program: script('./checkpoint_engine_worker.py'),
          device: 'cuda',
          directory,
          checkpoint,
          tpRank: rank,
          tpSize: size,
        }),
    )
    const ranks = engines.map((engine, rank) => new PeerRank(python, rank, size, port, engine.socket))
    try {
      const [first] = await Promise.all([...ranks.map((rank) => rank.ready), ...engines.map((engine) => engine.ready(120_000))])
      const version = first !== undefined && 'version' in first ? first.version : 'unknown'
      return new PeerCluster(version, engines, ranks, directory)
    } catch (error) {
      await stopAll(ranks, engines, directory)
      throw error
    }
  }

  /** Makes one call on every rank at once; the slowest rank's time counts. */
  async all(
    call: string,
    argument: (rank: number) => Record<string, unknown> = () => ({}),
  ): Promise<{ milliseconds: number; peakDeviceBytes: number }> {
    const answers = await Promise.all(this.#ranks.map((rank, index) => rank.call(call, argument(index))))
    return {
      milliseconds: Math.max(...answers.map(({ milliseconds }) => milliseconds)),
      peakDeviceBytes: Math.max(...answers.map(({ peakDeviceBytes = 0 }) => peakDeviceBytes)),
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await stopAll(this.#ranks, this.engines, this.#directory)
  }
}

async function stopAll(ranks: readonly PeerRank[], engines: readonly EngineProcess[], directory: string): Promise<void> {
  await Promise.all([...ranks.map((rank) => rank.stop()), ...engines.map((engine) => engine.process.stop())])
  rmSync(directory, { recursive: true, force: true })
}
