import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { lockedVersion, PYTHON } from './python-locks.mjs'

const PIP = ['-m', 'pip', '--quiet', '--disable-pip-version-check', '--no-input']
/** Installs nothing but what is named, in files whose hashes are known; builds nothing, which would fetch more. */
const LOCKED = ['install', '--require-hashes', '--no-deps', '--only-binary', ':all:']

/** Failure of pip, with the last line that it printed. */
export class PipError extends Error {}

/** Installs a lock file of scripts/python into the environment of an interpreter. */
export function installLocked(python, file) {
  pip(python, [...LOCKED, '--requirement', join(PYTHON, file)])
}

/** Installs a package of this tree, to be used from where it lies. */
export function installDistribution(python, directory) {
  pip(python, ['install', '--no-deps', '--no-build-isolation', '--editable', directory])
}

/**
 * Installs torch. Its builds differ from machine to machine: PyPI's is installed by the hashes in torch.lock, with the CUDA packages that it needs. A
 * build on this machine's disk, which pip's configuration names, or of an index that the caller names, is taken by its version.
 *
 * @param {string} python
 * @param {{ index?: string, local?: string }} options the index to prefer; the local part of the version that is needed (`+cpu`)
 * @returns {string} what was installed, and how
 */
export function installTorch(python, { index, local = '' } = {}) {
  const wanted = `torch==${lockedVersion('torch.lock', 'torch')}${local}`
  const from = index === undefined ? [] : ['--extra-index-url', index]
  const report = pip(python, ['install', '--dry-run', '--ignore-installed', '--no-deps', '--report', '-', ...from, wanted])
  const [{ metadata, download_info: source }] = JSON.parse(report).install
  if (index === undefined && !source.url.startsWith('file:')) {
    installLocked(python, 'torch.lock')
    return `torch ${metadata.version}: by the hashes in torch.lock`
  }
  // unchecked: a build that this machine's administrator or the caller names, and whose hash nobody but them knows.
  pip(python, ['install', '--no-deps', source.url])
  return `torch ${metadata.version}: by its version, not by a hash, from ${source.url}`
}

/** Runs pip; what it printed. */
function pip(python, args) {
  const { status, stdout, stderr, error } = spawnSync(python, [...PIP, ...args], { encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (status === 0) return stdout
  const said = `${stdout ?? ''}\n${stderr ?? ''}`.trim()
  throw new PipError(`pip ${args.join(' ')}: ${error?.message ?? said.slice(-4000)}`)
}
