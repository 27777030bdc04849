import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root directory. */
export const ROOT = fileURLToPath(new URL('../../../..', import.meta.url))

/** One fuzzer: a libFuzzer program of an addon, a `*.fuzz.ts` beside the code, or a program of the Python package. */
export type Target = { readonly name: string; /** Why it cannot run here. */ readonly missing?: string | undefined } & (
  | { readonly kind: 'native'; readonly addon: string; readonly program: string }
  | { readonly kind: 'script'; readonly path: string }
  | { readonly kind: 'python'; readonly python: string; readonly path: string }
)

/** Every fuzz target of the repository. */
export function targets(): Target[] {
  return [...nativeTargets(), ...scriptTargets(), ...pythonTargets()].sort((a, b) => a.name.localeCompare(b.name))
}

function nativeTargets(): Target[] {
  const missing = noLibFuzzer()
  return ['host', 'cuda', 'rdma'].flatMap((addon) =>
    filesOf(join(ROOT, 'native', addon, 'fuzz'), '_fuzz.cc').map((file): Target => {
      const name = `${addon}-${basename(file, '_fuzz.cc')}`
      return { name, kind: 'native', addon, program: basename(file, '.cc'), missing }
    }),
  )
}

function noLibFuzzer(): string | undefined {
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

function scriptTargets(): Target[] {
  return ['packages', 'apps'].flatMap((group) =>
    readdirSync(join(ROOT, group)).flatMap((name) => {
      const source = join(ROOT, group, name, 'src')
      return filesOf(source, '.fuzz.ts').map((file): Target => {
        return { name: basename(file, '.fuzz.ts'), kind: 'script', path: join(source, file) }
      })
    }),
  )
}

function pythonTargets(): Target[] {
  const python = process.env['CKPT_PYTHON'] ?? join(ROOT, '.venv/bin/python')
  const directory = join(ROOT, 'packages/python/fuzz')
  const missing = existsSync(python) ? undefined : `${python} is missing: npm run setup:python makes it`
  return filesOf(directory, '.py')
    .filter((file) => file.startsWith('fuzz_'))
    .map((file) => {
      return { name: `python-${basename(file, '.py').slice(5)}`, kind: 'python', python, path: join(directory, file), missing }
    })
}

/** Files below a directory whose names end so; none where there is no such directory. */
function filesOf(directory: string, ending: string): string[] {
  if (!existsSync(directory)) return []
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith(ending))
}
