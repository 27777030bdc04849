// Creates .venv in the repository root with everything the Python packages need. Quick when there is nothing to do.
// What comes from PyPI is compared with the hashes in scripts/python/*.lock; which build of torch is used, and how it was checked, is printed.
// CKPT_TORCH_INDEX: an index with the torch build to prefer (a CPU build, say).
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { installLocked, installTorch, installDistribution, PipError } from './lib/python-install.mjs'
import { PYTHON } from './lib/python-locks.mjs'
import { ROOT as root } from './lib/root.mjs'

const venv = join(root, '.venv')
const python = join(venv, 'bin', 'python')
const stampFile = join(venv, '.ckpt-stamp')
const distributions = ['packages/python', 'packages/testing/python'].map((path) => join(root, path))

function stop(message) {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}

/** The interpreter the environment is made from, by path and version; a new one means a new environment. */
function basePython() {
  const code = 'import sys; print(sys.version_info >= (3, 10), sys.version.split()[0], sys.executable)'
  const { status, stdout, error } = spawnSync('python3', ['-c', code], { encoding: 'utf8' })
  if (error || status !== 0) stop('python3 is missing; on Debian and Ubuntu: apt-get install python3 python3-venv')
  if (!stdout.startsWith('True')) stop(`Python 3.10 or newer is needed, python3 is ${stdout.split(' ')[1]}`)
  return stdout.trim()
}

/** Digest of all that decides what the environment holds. */
function wantedStamp(base) {
  const hash = createHash('sha256').update(base).update(root)
  const projects = distributions.map((directory) => join(directory, 'pyproject.toml'))
  for (const file of [join(PYTHON, 'requirements.lock'), join(PYTHON, 'torch.lock'), ...projects]) {
    hash.update('\0').update(readFileSync(file))
  }
  return hash.digest('hex')
}

const base = basePython()
const stamp = wantedStamp(base)
if (existsSync(python) && existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) {
  process.stdout.write('.venv is up to date\n')
  process.exit(0)
}

rmSync(stampFile, { force: true })
const usable = existsSync(python) && spawnSync(python, ['-m', 'pip', '--version'], { stdio: 'ignore' }).status === 0
if (!usable) {
  rmSync(venv, { recursive: true, force: true })
  const { status } = spawnSync('python3', ['-m', 'venv', venv], { stdio: ['ignore', 'inherit', 'inherit'] })
  if (status !== 0) stop('python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv')
}
try {
  installLocked(python, 'requirements.lock')
  process.stdout.write(`${installTorch(python, { index: process.env.CKPT_TORCH_INDEX || undefined })}\n`)
  for (const directory of distributions) installDistribution(python, directory)
} catch (error) {
  if (!(error instanceof PipError)) throw error
  stop(error.message)
}
writeFileSync(stampFile, stamp)
process.stdout.write('.venv is ready\n')
