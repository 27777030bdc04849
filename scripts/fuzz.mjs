#!/usr/bin/env node
// Fuzzers; --help says how they are asked for.
import { spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { targets } from './fuzz/targets.mjs'
import { ROOT } from './lib/root.mjs'
import { sourceArguments } from './lib/source.mjs'

const USAGE = `usage: node scripts/fuzz.mjs [options]

Each target runs for M minutes, one after another. Inputs that fail are kept in build/fuzz and named; the exit code is then 1. Line by line:
PASS, FAIL or SKIP, the target, and what was seen. Native targets are built with AddressSanitizer, UBSan and leak detection.

  --minutes M         how long each target runs (default 1)
  --target NAME,...   only these (default: all)
  --seed S            start of the random numbers (default: of the clock)
  --list              print the targets, and why one cannot run here
  --replay FILE       run one input, of the one target that --target names
`
const { values } = parseArgs({
  options: {
    help: { type: 'boolean', short: 'h', default: false },
    minutes: { type: 'string', default: '1' },
    target: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    list: { type: 'boolean', default: false },
    replay: { type: 'string' },
  },
})
if (values.help) {
  process.stdout.write(USAGE)
  process.exit(0)
}
const seconds = Number(values.minutes) * 60
if (!(seconds > 0) || !Number.isSafeInteger(Number(values.seed))) {
  process.stderr.write('--minutes takes a number above 0, --seed a whole number\n')
  process.exit(2)
}
/** A single input may take this long, in milliseconds. */
const HANG_MS = 10_000
const FOUND = join(ROOT, 'build/fuzz')
const all = targets()
if (values.list) {
  for (const { name, kind, missing } of all) process.stdout.write(`${name} (${kind})${missing ? `: ${missing}` : ''}\n`)
  process.exit(0)
}
const names = values.target?.split(',') ?? all.map(({ name }) => name)
for (const name of names.filter((one) => !all.some((target) => target.name === one))) {
  process.stderr.write(`there is no target "${name}"; --list names them\n`)
  process.exit(2)
}
mkdirSync(FOUND, { recursive: true })
const scratch = mkdtempSync(join(tmpdir(), 'ckpt-fuzz-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
/** The fuzzer that runs; it ends with this process. */
let running
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => (running?.kill('SIGKILL'), process.exit(130)))

let failed = 0
for (const target of all.filter(({ name }) => names.includes(name))) {
  if (target.missing !== undefined) {
    process.stdout.write(`SKIP ${target.name}: ${target.missing}\n`)
    continue
  }
  const { ok, text } = await { native, script, python }[target.kind](target)
  if (!ok) failed++
  process.stdout.write(`${ok ? 'PASS' : 'FAIL'} ${target.name}: ${text.trim()}\n`)
}
process.exitCode = failed > 0 ? 1 : 0

function native({ addon, program }) {
  const build = join(ROOT, 'native', addon, 'build/fuzz')
  const configure = [
    '-S',
    join(ROOT, 'native', addon),
    '-B',
    build,
    '-DCKPT_ENGINE_ONLY=ON',
    '-DCKPT_FUZZ=ON',
    '-DCMAKE_BUILD_TYPE=RelWithDebInfo',
  ]
  for (const args of [
    [...configure, '-DCMAKE_CXX_COMPILER=clang++', '-DCKPT_SANITIZE=address,undefined'],
    ['--build', build, '--parallel', '2', '--target', program],
  ]) {
    const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 64 << 20 })
    if (status !== 0) return { ok: false, text: `cannot be built:\n${stdout}${stderr}` }
  }
  const corpus = join(FOUND, `corpus-${addon}-${program}`)
  mkdirSync(corpus, { recursive: true })
  const given = join(ROOT, 'native', addon, 'fuzz/corpus', program)
  const limits = [
    `-max_total_time=${Math.ceil(seconds)}`,
    `-timeout=${HANG_MS / 1000}`,
    '-rss_limit_mb=3000',
    '-print_final_stats=1',
    // Slow targets would not get to inputs of many steps otherwise.
    '-len_control=10',
  ]
  const args =
    values.replay === undefined
      ? [
          ...limits,
          `-seed=${1 + Number(values.seed)}`,
          `-artifact_prefix=${FOUND}/${addon}-${program}-`,
          corpus,
          ...(existsSync(given) ? [given] : []),
        ]
      : [values.replay]
  const env = {
    ...process.env,
    ASAN_OPTIONS: 'detect_leaks=1:allocator_may_return_null=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
  }
  return run(join(build, program), args, { env, longestMs: seconds * 1000 + 120_000 }).then(({ code, output }) => {
    if (code !== 0) return { ok: false, text: `exit code ${code}\n${tail(output, 60)}` }
    const stat = (name) => new RegExp(`stat::${name}:\\s+(\\d+)`).exec(output)?.[1] ?? '?'
    const coverage = [...output.matchAll(/cov: (\d+)/g)].at(-1)?.[1] ?? '?'
    return {
      ok: true,
      text: `${stat('number_of_executed_units')} inputs, ${coverage} edges, peak memory ${stat('peak_rss_mb')} MB`,
    }
  })
}

function script({ name, path }) {
  return watched(name, process.execPath, ['--expose-gc', ...sourceArguments('scripts/fuzz/target-main.mjs'), path])
}

function python({ name, python: interpreter, path }) {
  return watched(name, interpreter, ['-X', 'faulthandler', path])
}

/** A program that takes SEED SECONDS STATE [INPUT] and keeps the input it tries in STATE. */
async function watched(name, command, program) {
  const state = join(scratch, `${name}-state`)
  const args = [...program, values.seed, String(seconds), state, ...(values.replay === undefined ? [] : [values.replay])]
  const watch = { changed: performance.now(), mtime: 0 }
  const hangs = () => {
    const mtime = existsSync(state) ? statSync(state).mtimeMs : 0
    if (mtime !== watch.mtime) Object.assign(watch, { changed: performance.now(), mtime })
    return mtime > 0 && performance.now() - watch.changed > HANG_MS
  }
  const { code, output, hung } = await run(command, args, { hangs, longestMs: seconds * 1000 + 120_000 })
  if (code === 0) return { ok: true, text: output }
  const kept = join(FOUND, `${name}-${Date.now()}`)
  if (existsSync(state)) copyFileSync(state, kept)
  const head = existsSync(kept) ? readFileSync(kept).subarray(0, 64).toString('hex') : ''
  return { ok: false, text: `${hung ? 'hangs' : `exit code ${code}`} (input in ${kept}: ${head}…)\n${tail(output, 40)}` }
}

function run(command, args, { env = process.env, hangs, longestMs }) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env })
    running = child
    let output = ''
    let hung = false
    const started = performance.now()
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output = (output + data).slice(-1_000_000)))
    const timer = setInterval(() => {
      hung = performance.now() - started > longestMs || hangs?.() === true
      if (hung) child.kill('SIGKILL')
    }, 1000)
    child.once('error', (error) => (output += String(error)))
    child.once('close', (code, signal) => {
      clearInterval(timer)
      resolve({ code: code ?? signal, output, hung })
    })
  })
}

function tail(text, lines) {
  return text.trimEnd().split('\n').slice(-lines).join('\n')
}
