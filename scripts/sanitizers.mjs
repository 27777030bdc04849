// Builds the engines without Node under sanitizers and runs their tests: node scripts/sanitizers.mjs [address|thread|all] (address: undefined behaviour too)
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
/** The parts of these engines that need no device are tested here. */
const ENGINES = ['native/host', 'native/cuda', 'native/rdma']
/** Headers without which an engine cannot be built. */
const NEEDED = new Map([['native/rdma', ['infiniband/verbs.h', 'apt-get install libibverbs-dev']]])

/** Build folder, -fsanitize= value and environment by the name on the command line. */
const BUILDS = {
  // Both in one build: they get along, and each build of all engines takes a minute of two cores.
  address: {
    sanitize: 'address,undefined',
    env: {
      ASAN_OPTIONS: 'detect_leaks=1:abort_on_error=0:exitcode=99',
      UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
    },
  },
  thread: { sanitize: 'thread', env: { TSAN_OPTIONS: 'halt_on_error=1:exitcode=98:second_deadlock_stack=1' } },
}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 64 << 20, ...options })
  if (result.error?.code === 'ENOENT') {
    throw new Error(`${command} is missing; on Debian: apt-get install -y cmake g++ make`)
  }
  return result
}

/** Which header an engine cannot be built without, and is not here. */
function missingHeader(engine) {
  const [header, remedy] = NEEDED.get(engine) ?? []
  if (header === undefined) return undefined
  const found = run(process.env.CXX ?? 'c++', ['-x', 'c++', '-fsyntax-only', '-'], { input: `#include <${header}>\n` })
  return found.status === 0 ? undefined : `${header} is missing; ${remedy}`
}

/** The test programs of an engine's sanitizer build, built first where needed. */
function build(engine, name, sanitize) {
  const folder = join(engine, 'build', name)
  const configured = run('cmake', [
    ...['-S', engine, '-B', folder, '-DCKPT_ENGINE_ONLY=ON', '-DCMAKE_BUILD_TYPE=RelWithDebInfo'],
    `-DCKPT_SANITIZE=${sanitize}`,
  ])
  if (configured.status !== 0) throw new Error(`cannot configure the ${name} build:\n${configured.stdout}${configured.stderr}`)
  const built = run('cmake', ['--build', folder, '--parallel', '2'])
  if (built.status !== 0) throw new Error(`cannot build for ${name}:\n${built.stdout}${built.stderr}`)
  const tests = existsSync(join(engine, 'test/engine')) ? readdirSync(join(engine, 'test/engine')) : []
  return tests
    .filter((file) => file.endsWith('_test.cc'))
    .sort()
    .map((file) => join(folder, file.replace(/\.cc$/, '')))
}

/** Runs one test program; its PASS and FAIL lines are passed on with the sanitizer's name. Returns how many failed. */
function test(name, program, env) {
  const result = run(program, [], { env: { ...process.env, ...env }, timeout: 300_000 })
  let failed = 0
  let passed = 0
  for (const line of (result.stdout ?? '').split('\n')) {
    const match = /^(PASS|FAIL) (.*)$/.exec(line)
    if (match === null) continue
    console.log(`${match[1]} ${name}: ${match[2]}`)
    if (match[1] === 'FAIL') failed++
    else passed++
  }
  const report = result.stderr ?? ''
  if (result.status === 0 && failed === 0 && passed > 0 && !/ERROR: |WARNING: ThreadSanitizer|runtime error:/.test(report))
    return 0
  console.error(report)
  if (failed > 0) return failed
  console.log(
    `FAIL ${name}: ${program.split('/').pop()} ended with ${result.signal ?? `status ${result.status}`} after ${passed} passes`,
  )
  return 1
}

const wanted = process.argv[2] ?? 'all'
if (wanted !== 'all' && !Object.hasOwn(BUILDS, wanted)) {
  console.error(`usage: node scripts/sanitizers.mjs [${Object.keys(BUILDS).join('|')}|all]`)
  process.exit(2)
}
let failures = 0
for (const [name, { sanitize, env }] of Object.entries(BUILDS)) {
  if (wanted !== 'all' && wanted !== name) continue
  for (const part of ENGINES) {
    const lacking = missingHeader(part)
    if (lacking !== undefined) {
      console.log(`SKIP ${name} ${part}: ${lacking}`)
      continue
    }
    try {
      const programs = build(join(root, part), name, sanitize)
      if (programs.length === 0) throw new Error('there are no test programs')
      for (const program of programs) failures += test(name, program, env)
    } catch (error) {
      console.error(error.message)
      console.log(`FAIL ${name}: ${part}: ${error.message.split('\n')[0]}`)
      failures++
    }
  }
}
process.exit(failures === 0 ? 0 : 1)
