import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SOURCE_FLAGS } from '@ckpt/testing'
import { ROOT, type Target } from './targets.ts'

/** A single input may take this long, in milliseconds. */
const HANG_MS = 10_000
/** What a target may take beyond its time, to start and to end. */
const GRACE_MS = 120_000
/** Where inputs that fail are kept, and what libFuzzer has found so far. */
const FOUND = join(ROOT, 'build/fuzz')

/** What a fuzzer came to. */
export interface Outcome {
  readonly ok: boolean
  readonly text: string
}

interface Ended {
  readonly code: number | NodeJS.Signals | null
  readonly output: string
  readonly hung: boolean
}

/** Runs targets one after another, each for `seconds`, or on the one input `replay`. Disposing it ends the one that runs. */
export class Fuzzing implements Disposable {
  readonly #scratch = mkdtempSync(join(tmpdir(), 'ckpt-fuzz-'))
  #running: ChildProcess | undefined

  constructor(
    private readonly seed: number,
    private readonly seconds: number,
    private readonly replay?: string,
  ) {
    mkdirSync(FOUND, { recursive: true })
  }

  run(target: Target): Promise<Outcome> {
    switch (target.kind) {
      case 'native':
        return this.#native(target.addon, target.program)
      case 'script': {
        const main = fileURLToPath(new URL('./target-main.ts', import.meta.url))
        return this.#watched(target.name, process.execPath, ['--expose-gc', ...SOURCE_FLAGS, main, target.path])
      }
      case 'python':
        return this.#watched(target.name, target.python, ['-X', 'faulthandler', target.path])
    }
  }

  [Symbol.dispose](): void {
    this.#running?.kill('SIGKILL')
    rmSync(this.#scratch, { recursive: true, force: true })
  }

  async #native(addon: string, program: string): Promise<Outcome> {
    const build = join(ROOT, 'native', addon, 'build/fuzz')
    const wrong = buildNative(join(ROOT, 'native', addon), build, program)
    if (wrong !== undefined) return { ok: false, text: wrong }
    const env = {
      ...process.env,
      ASAN_OPTIONS: 'detect_leaks=1:allocator_may_return_null=1',
      UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
    }
    const args = this.replay === undefined ? this.#libFuzzerArguments(addon, program) : [this.replay]
    const { code, output } = await this.#start(join(build, program), args, env)
    if (code !== 0) return { ok: false, text: `exit code ${code}\n${tail(output, 60)}` }
    const stat = (name: string) => new RegExp(`stat::${name}:\\s+(\\d+)`).exec(output)?.[1] ?? '?'
    const coverage = [...output.matchAll(/cov: (\d+)/g)].at(-1)?.[1] ?? '?'
    return {
      ok: true,
      text: `${stat('number_of_executed_units')} inputs, ${coverage} edges, peak memory ${stat('peak_rss_mb')} MB`,
    }
  }

  #libFuzzerArguments(addon: string, program: string): string[] {
    const corpus = join(FOUND, `corpus-${addon}-${program}`)
    mkdirSync(corpus, { recursive: true })
    const given = join(ROOT, 'native', addon, 'fuzz/corpus', program)
    return [
      `-max_total_time=${Math.ceil(this.seconds)}`,
      `-timeout=${HANG_MS / 1000}`,
      '-rss_limit_mb=3000',
      '-print_final_stats=1',
      // Slow targets would not get to inputs of many steps otherwise.
      '-len_control=10',
      `-seed=${1 + this.seed}`,
      `-artifact_prefix=${FOUND}/${addon}-${program}-`,
      corpus,
      ...(existsSync(given) ? [given] : []),
    ]
  }

  /** A program that takes SEED SECONDS STATE [INPUT] and keeps the input it tries in STATE. */
  async #watched(name: string, command: string, program: readonly string[]): Promise<Outcome> {
    const state = join(this.#scratch, `${name}-state`)
    const args = [...program, String(this.seed), String(this.seconds), state]
    if (this.replay !== undefined) args.push(this.replay)
    const watch = { changed: performance.now(), mtime: 0 }
    const hangs = () => {
      const mtime = existsSync(state) ? statSync(state).mtimeMs : 0
      if (mtime !== watch.mtime) Object.assign(watch, { changed: performance.now(), mtime })
      return mtime > 0 && performance.now() - watch.changed > HANG_MS
    }
    const { code, output, hung } = await this.#start(command, args, process.env, hangs)
    if (code === 0) return { ok: true, text: output }
    const kept = join(FOUND, `${name}-${Date.now()}`)
    if (existsSync(state)) copyFileSync(state, kept)
    const head = existsSync(kept) ? readFileSync(kept).subarray(0, 64).toString('hex') : ''
    return {
      ok: false,
      text: `${hung ? 'hangs' : `exit code ${code}`} (input in ${kept}: ${head}…)\n${tail(output, 40)}`,
    }
  }

  #start(command: string, args: readonly string[], env: NodeJS.ProcessEnv, hangs: () => boolean = () => false): Promise<Ended> {
    return new Promise((resolve) => {
      const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env })
      this.#running = child
      let output = ''
      let hung = false
      const started = performance.now()
      for (const stream of [child.stdout, child.stderr])
        stream.on('data', (data: Buffer) => (output = (output + data.toString()).slice(-1_000_000)))
      const timer = setInterval(() => {
        hung = performance.now() - started > this.seconds * 1000 + GRACE_MS || hangs()
        if (hung) child.kill('SIGKILL')
      }, 1000)
      child.once('error', (error) => (output += String(error)))
      child.once('close', (code, signal) => {
        clearInterval(timer)
        resolve({ code: code ?? signal, output, hung })
      })
    })
  }
}

/** Builds one fuzzer of an addon with clang and the sanitizers; the reason where that fails. */
function buildNative(addon: string, build: string, program: string): string | undefined {
  const options = ['-DCKPT_ENGINE_ONLY=ON', '-DCKPT_FUZZ=ON', '-DCMAKE_BUILD_TYPE=RelWithDebInfo']
  const compiler = ['-DCMAKE_CXX_COMPILER=clang++', '-DCKPT_SANITIZE=address,undefined']
  for (const args of [
    ['-S', addon, '-B', build, ...options, ...compiler],
    ['--build', build, '--parallel', '2', '--target', program],
  ]) {
    const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 64 << 20 })
    if (status !== 0) return `cannot be built:\n${stdout}${stderr}`
  }
  return undefined
}

function tail(text: string, lines: number): string {
  return text.trimEnd().split('\n').slice(-lines).join('\n')
}
