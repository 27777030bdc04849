import { spawn } from 'node:child_process'
import { appendFileSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError } from '@ckpt/contract'
import { z } from 'zod'
import { freePort } from '../cluster/cluster.ts'
import { wrap, type Spawned } from '../cluster/processes.ts'

const START_TIMEOUT_MS = 900_000
const WORKER_SOURCE = fileURLToPath(new URL('../../../../packages/python/src', import.meta.url))
/** Directory that every interpreter loads at its start, so that vLLM does not use AMX. */
const SITE = dirname(fileURLToPath(new URL('./site/sitecustomize.py', import.meta.url)))

export interface VllmServerOptions {
  /** Interpreter that has vLLM. */
  readonly python: string
  /** Directory of the model. */
  readonly model: string
  /** `dummy` for generated weights, `auto` for those on disk. */
  readonly loadFormat: 'dummy' | 'auto'
  readonly tensorParallelSize?: number
  /** Additional arguments of vLLM. */
  readonly extra?: readonly string[]
  /** Additional environment, such as CKPT_ENGINE_KEY. */
  readonly env?: Readonly<Record<string, string>>
  /** Class that extends the workers (default: the worker package's). */
  readonly extension?: string
  /** Arguments and environment of a server that is not as small as those of tests. */
  readonly settings?: VllmSettings
  /** File that gets the whole output. */
  readonly log?: string
}

/** Arguments of vLLM and environment of its processes. */
export interface VllmSettings {
  readonly arguments: readonly string[]
  readonly variables: Readonly<Record<string, string>>
}

/** Answer of vLLM: token ids, and log probabilities exactly as printed. */
export interface Completion {
  readonly tokens: readonly string[]
  readonly logprobs: readonly string[]
}

const completionSchema = z.object({
  choices: z.tuple([z.object({ logprobs: z.object({ tokens: z.array(z.string()), token_logprobs: z.array(z.number()) }) })]),
})

/** Prompts that exercise several lengths; numbers are token ids. */
export const PROMPTS: readonly (readonly number[])[] = [
  [5, 6, 7, 8],
  [100],
  [41, 300, 17, 9, 250, 77, 10, 11, 12],
  Array.from({ length: 40 }, (_, index) => (index * 37 + 11) % 500),
]

/** Number of tokens of each answer. */
export const TOKENS = 24

/** Directories that vLLM's processes import the worker package from, before those that are on the path already. */
export function vllmPythonPath(...more: readonly (string | undefined)[]): string {
  return [WORKER_SOURCE, ...more, process.env['PYTHONPATH']].filter((path) => path).join(':')
}

/** Environment that isolates vLLM: its files under `home`, one thread per worker, nothing from the network, no AMX. */
export function vllmVariables(home: string, more: Readonly<Record<string, string>> = {}): Record<string, string> {
  const { PYTHONPATH, ...rest } = more
  return {
    // This checkout's worker package, whatever the environment has.
    PYTHONPATH: vllmPythonPath(SITE, PYTHONPATH),
    VLLM_SERVER_DEV_MODE: '1',
    // Cores are shared with the rest of the test.
    VLLM_CPU_OMP_THREADS_BIND: 'nobind',
    OMP_NUM_THREADS: '1',
    VLLM_CACHE_ROOT: home,
    HF_HOME: home,
    HF_HUB_OFFLINE: '1',
    VLLM_NO_USAGE_STATS: '1',
    DO_NOT_TRACK: '1',
    ...rest,
  }
}

/** Arguments and environment of small servers on the CPU, whose files are under `home`. */
export function smallSettings(home: string, variables: Readonly<Record<string, string>> = {}): VllmSettings {
  return {
    arguments: [
      '--enforce-eager',
      '--max-model-len',
      '256',
      '--max-num-seqs',
      '4',
      '--kv-cache-memory-bytes',
      String(64 * 2 ** 20),
    ],
    variables: vllmVariables(home, variables),
  }
}

/** A real vLLM server (OpenAI API, development endpoints on), on a port of the loopback interface; on the CPU unless told. */
export class VllmServer implements AsyncDisposable {
  readonly process: Spawned
  readonly url: string
  readonly #model: string
  readonly #home: string
  #output = ''

  private constructor(options: VllmServerOptions, port: number) {
    this.url = `http://127.0.0.1:${port}`
    this.#model = options.model
    this.#home = mkdtempSync(join(tmpdir(), `ckpt-vllm-${process.pid}-`))
    const { tensorParallelSize = 1, extension = 'ckpt_worker.vllm.WorkerExtension', extra = [] } = options
    const settings = options.settings ?? smallSettings(this.#home, options.env)
    const args = [
      ...['-m', 'vllm.entrypoints.openai.api_server', '--model', options.model, '--load-format', options.loadFormat],
      ...['--host', '127.0.0.1', '--port', String(port), '--tensor-parallel-size', String(tensorParallelSize)],
      ...['--worker-extension-cls', extension, '--disable-uvicorn-access-log', ...settings.arguments, ...extra],
    ]
    const child = spawn(options.python, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...settings.variables },
    })
    child.stdout.setEncoding('utf8').on('data', (text: string) => (this.#output = (this.#output + text).slice(-40_000)))
    this.process = wrap('vLLM', child)
    const { log } = options
    if (log !== undefined)
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (text: string) => appendFileSync(log, text))
    process.on('exit', this.#kill)
  }

  /** Starts a server; `ready` waits for it. */
  static async start(options: VllmServerOptions): Promise<VllmServer> {
    return new VllmServer(options, await freePort())
  }

  /** Starts a server and waits until it answers. */
  static async serving(options: VllmServerOptions): Promise<VllmServer> {
    const server = await VllmServer.start(options)
    try {
      await server.ready()
      return server
    } catch (error) {
      await server.stop()
      throw error
    }
  }

  /** Waits until it is healthy. @throws CkptError `ENGINE_UNREACHABLE` with its output. */
  async ready(timeoutMs = START_TIMEOUT_MS): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!(await this.#healthy())) {
      const { exitCode, signalCode } = this.process.child
      if (exitCode !== null || signalCode !== null || performance.now() > deadline) {
        const ended = signalCode ?? exitCode
        const what = ended === null ? `is not healthy after ${Math.round(timeoutMs / 1000)} s` : `exited (${ended})`
        throw new CkptError('ENGINE_UNREACHABLE', `vLLM at ${this.url} ${what}: ${this.output()}`)
      }
      await sleep(250)
    }
  }

  async #healthy(): Promise<boolean> {
    try {
      return (await fetch(`${this.url}/health`, { signal: AbortSignal.timeout(5000) })).ok
    } catch {
      return false
    }
  }

  /** Last part of its output. */
  output(): string {
    return `${this.#output.slice(-6000)}\n${this.process.stderr()}`
  }

  /**
   * Returns greedy tokens and their log probabilities for each prompt, one request after the other; `model` may name an
   * adapter.
   */
  async complete(
    prompts: readonly (readonly number[])[] = PROMPTS,
    tokens = TOKENS,
    model = this.#model,
  ): Promise<Completion[]> {
    const answers: Completion[] = []
    for (const prompt of prompts) {
      const text = await this.post('/v1/completions', {
        model,
        prompt,
        max_tokens: tokens,
        temperature: 0,
        logprobs: 0,
        ignore_eos: true,
      })
      const { logprobs } = completionSchema.parse(JSON.parse(text)).choices[0]
      const digits = /"token_logprobs":\[([^\]]*)\]/.exec(text)![1]!
      answers.push({ tokens: logprobs.tokens, logprobs: digits.split(',') })
    }
    return answers
  }

  /** Posts JSON and returns the answer's text. */
  async post(path: string, body: unknown): Promise<string> {
    const answer = await fetch(this.url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(120_000),
    })
    const text = await answer.text()
    if (!answer.ok) throw new CkptError('ENGINE_PROTOCOL', `${path} answered ${answer.status}: ${text}`)
    return text
  }

  /** The server's child processes that run its workers. */
  workers(): number[] {
    return descendants(this.process.child.pid!).filter((pid) => /^VLLM::Worker/.test(titleOf(pid)))
  }

  /** Ends it and all its processes, and removes its files. */
  async stop(): Promise<void> {
    const all = this.#processes()
    await this.process.stop('SIGTERM', 8000)
    process.off('exit', this.#kill)
    killAll(all)
    rmSync(this.#home, { recursive: true, force: true })
  }

  #processes(): number[] {
    const { pid, exitCode, signalCode } = this.process.child
    return pid === undefined || exitCode !== null || signalCode !== null ? [] : [pid, ...descendants(pid)]
  }

  /** Ends what would outlive this process. */
  readonly #kill = () => killAll(this.#processes())

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}

function killAll(processes: readonly number[]): void {
  for (const pid of processes) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // Already ended.
    }
  }
}

function titleOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
  } catch {
    return ''
  }
}

function descendants(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const parent = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${name}/status`, 'utf8'))![1])
      children.set(parent, [...(children.get(parent) ?? []), Number(name)])
    } catch {
      // Ended meanwhile.
    }
  }
  const found: number[] = []
  const queue = [root]
  for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
    const own = children.get(next) ?? []
    found.push(...own)
    queue.push(...own)
  }
  return found
}
