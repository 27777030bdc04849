import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './root.mjs'

/** Where the requirements and lock files of Python packages are. */
export const PYTHON = join(ROOT, 'scripts/python')

const PIP = ['-m', 'pip', '--quiet', '--disable-pip-version-check', '--no-input']
/** Installs nothing but what is named, in files whose hashes are known; builds nothing, which would fetch more. */
const LOCKED = ['install', '--require-hashes', '--no-deps', '--only-binary', ':all:']

/** What is read of pip's report of an installation. */
interface Report {
  readonly install: readonly [
    { readonly metadata: { readonly version: string }; readonly download_info: { readonly url: string } },
  ]
}

/** Failure of pip, with the last line that it printed. */
export class PipError extends Error {}

/** Packages that have no wheel, and are built from their sources, whose hashes are known, with what is installed. */
const FROM_SOURCE = ['antlr4-python3-runtime']

/** Installs a lock file of scripts/python into the environment of an interpreter. */
export function installLocked(python: string, file: string): void {
  const sources = FROM_SOURCE.filter((name) => new RegExp(`^${name}==`, 'm').test(readFileSync(join(PYTHON, file), 'utf8')))
  if (sources.length === 0) return void pip(python, [...LOCKED, '--requirement', join(PYTHON, file)])
  const [wheels, built] = parts(readFileSync(join(PYTHON, file), 'utf8'), sources)
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-lock-'))
  try {
    for (const [name, text, more] of [
      ['wheels.txt', wheels, ['--only-binary', ':all:']],
      ['sources.txt', built, ['--no-build-isolation', '--no-binary', sources.join(',')]],
    ] as const) {
      writeFileSync(join(directory, name), text)
      pip(python, ['install', '--require-hashes', '--no-deps', ...more, '--requirement', join(directory, name)])
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Divides a lock file: the entries of other packages, and those of `names`. */
function parts(lock: string, names: readonly string[]): [string, string] {
  const entries = lock.split(/\n(?=[a-z\d])/i)
  const own = (entry: string): boolean => names.some((name) => entry.startsWith(`${name}==`))
  return [entries.filter((entry) => !own(entry)).join('\n'), entries.filter(own).join('\n')]
}

/** Installs a package of this tree, to be used from where it lies. */
export function installDistribution(python: string, directory: string): void {
  pip(python, ['install', '--no-deps', '--no-build-isolation', '--editable', directory])
}

/**
 * Installs torch. Its builds differ from machine to machine: PyPI's is installed by the hashes in torch.lock, with the CUDA packages that it needs. A
 * build on this machine's disk, which pip's configuration names, or of an index that the caller names, is taken by its version.
 * @param index the index to prefer
 * @param local the local part of the version that is needed (`+cpu`)
 * @returns what was installed, and how
 */
export function installTorch(
  python: string,
  { index, local = '' }: { index?: string | undefined; local?: string } = {},
): string {
  const wanted = `torch==${lockedVersion('torch.lock', 'torch')}${local}`
  const from = index === undefined ? [] : ['--extra-index-url', index]
  const report = pip(python, ['install', '--dry-run', '--ignore-installed', '--no-deps', '--report', '-', ...from, wanted])
  const [{ metadata, download_info: source }] = (JSON.parse(report) as Report).install
  if (index === undefined && !source.url.startsWith('file:')) {
    installLocked(python, 'torch.lock')
    return `torch ${metadata.version}: by the hashes in torch.lock`
  }
  // unchecked: a build that this machine's administrator or the caller names, and whose hash nobody but them knows.
  pip(python, ['install', '--no-deps', source.url])
  return `torch ${metadata.version}: by its version, not by a hash, from ${source.url}`
}

/** Runs pip; what it printed. */
function pip(python: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(python, [...PIP, ...args], { encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (status === 0) return stdout
  throw new PipError(`pip ${args.join(' ')}: ${error?.message ?? `${stdout}\n${stderr}`.trim().slice(-4000)}`)
}

/** Version of a package in a lock file. */
function lockedVersion(file: string, name: string): string {
  const found = new RegExp(`^${name}==([\\w.+!-]+)`, 'm').exec(readFileSync(join(PYTHON, file), 'utf8'))?.[1]
  if (found === undefined) throw new Error(`${file} has no ${name}`)
  return found
}
