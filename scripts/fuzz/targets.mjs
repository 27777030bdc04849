import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { ROOT } from '../lib/root.mjs'

/** Every fuzz target of the repository: `{ name, kind, path, missing? }`; `missing` says why it cannot run here. */
export function targets() {
  return [...nativeTargets(), ...scriptTargets(), ...pythonTargets()].sort((a, b) => a.name.localeCompare(b.name))
}

function nativeTargets() {
  const missing = noLibFuzzer()
  return ['host', 'cuda', 'rdma'].flatMap((addon) => {
    const directory = join(ROOT, 'native', addon, 'fuzz')
    if (!existsSync(directory)) return []
    return readdirSync(directory)
      .filter((file) => file.endsWith('_fuzz.cc'))
      .map((file) => ({
        name: `${addon}-${basename(file, '_fuzz.cc')}`,
        kind: 'native',
        addon,
        program: basename(file, '.cc'),
        missing,
      }))
  })
}

function noLibFuzzer() {
  try {
    const source = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
    execFileSync('clang++', ['-fsanitize=fuzzer,address', '-x', 'c++', '-', '-o', '/dev/null'], {
      input: source,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    return undefined
  } catch {
    return 'clang++ with libFuzzer is missing; on Debian: apt-get install clang llvm libclang-rt-14-dev'
  }
}

/** `*.fuzz.ts` beside the code. */
function scriptTargets() {
  return ['packages', 'apps'].flatMap((group) =>
    readdirSync(join(ROOT, group)).flatMap((name) => {
      const source = join(ROOT, group, name, 'src')
      if (!existsSync(source)) return []
      return readdirSync(source, { recursive: true })
        .filter((file) => file.endsWith('.fuzz.ts'))
        .map((file) => ({ name: basename(file, '.fuzz.ts'), kind: 'script', path: join(source, file) }))
    }),
  )
}

function pythonTargets() {
  const python = process.env.CKPT_PYTHON ?? join(ROOT, '.venv/bin/python')
  const directory = join(ROOT, 'packages/python/fuzz')
  if (!existsSync(directory)) return []
  const missing = existsSync(python) ? undefined : `${python} is missing: npm run setup:python makes it`
  return readdirSync(directory)
    .filter((file) => /^fuzz_.*\.py$/.test(file))
    .map((file) => ({
      name: `python-${basename(file, '.py').slice(5)}`,
      kind: 'python',
      python,
      path: join(directory, file),
      missing,
    }))
}
