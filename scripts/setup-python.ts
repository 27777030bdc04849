/**
 * Makes an environment with everything the Python packages need: `.venv`, or with --vllm `.cache/vllm/venv`, which has vLLM for the CPU and the
 * worker package, for tests of the real engine (about 3.5 GB on disk), or with --trainers `.cache/trainers/venv`, which has verl, Ray, TRL and
 * others (about 3 GB), or with --deploy `.cache/deploy/venv`, which has what renders and validates the Helm chart (about 390 MB). Quick when
 * there is nothing to do.
 *
 * What comes from PyPI is compared with the hashes in scripts/python/*.lock; which build of torch is used, and how it was checked, is printed.
 * CKPT_TORCH_INDEX: an index with the torch build to prefer (a CPU build, say; with --vllm PyTorch's own by default).
 * Where --vllm or --trainers cannot be had here, one line `SKIP vLLM: reason` or `SKIP trainers: reason` says so, and the exit code is 3.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { PYTHON_PACKAGES } from './lib/python.ts'
import { installDistribution, installLocked, installTorch, PipError, PYTHON } from './lib/python-install.ts'
import { ROOT } from './lib/root.mjs'

const vllm = process.argv.includes('--vllm')
const deploy = process.argv.includes('--deploy')
const trainers = process.argv.includes('--trainers')
const large = vllm || trainers
const optional = large || deploy
const [worker] = PYTHON_PACKAGES
const KINDS = {
  vllm: { name: 'vLLM', venv: '.cache/vllm/venv', minor: 11, lock: 'vllm.lock', packages: [worker!], torch: torchForCpu },
  trainers: {
    name: 'training frameworks',
    venv: '.cache/trainers/venv',
    minor: 11,
    lock: 'trainers.lock',
    packages: PYTHON_PACKAGES,
    torch: torchForCpu,
  },
  deploy: {
    name: '.cache/deploy/venv',
    venv: '.cache/deploy/venv',
    minor: 10,
    lock: 'deploy.lock',
    packages: [],
    torch: undefined,
  },
  own: { name: '.venv', venv: '.venv', minor: 10, lock: 'requirements.lock', packages: PYTHON_PACKAGES, torch: torchHere },
}
const wanted = KINDS[vllm ? 'vllm' : trainers ? 'trainers' : deploy ? 'deploy' : 'own']
const index = process.env['CKPT_TORCH_INDEX'] || undefined
const venv = join(ROOT, wanted.venv)
const python = join(venv, 'bin/python')
const stampFile = optional ? join(venv, '../stamp') : join(venv, '.ckpt-stamp')

const stamp = wantedStamp(basePython())
if (existsSync(python) && existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) {
  process.stdout.write(`${wanted.name} is up to date\n`)
  process.exit(0)
}
rmSync(stampFile, { force: true })
mkdirSync(dirname(venv), { recursive: true })
if (!runs(python, ['-m', 'pip', '--version'])) {
  rmSync(venv, { recursive: true, force: true })
  if (!runs('python3', ['-m', 'venv', venv])) stop('python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv')
}
try {
  if (large) process.stdout.write(`installing ${wanted.name} (about 3 GB on disk)\n`)
  installLocked(python, wanted.lock)
  if (wanted.torch) process.stdout.write(`${wanted.torch()}\n`)
  for (const directory of wanted.packages) installDistribution(python, directory)
} catch (error) {
  if (!(error instanceof PipError)) throw error
  process.stderr.write(`${error.message}\n`)
  stop(`pip cannot install it: ${error.message.trim().split('\n').at(-1)}`)
}
if (vllm && !runs(python, ['-c', 'import vllm, ckpt_worker.vllm'])) stop('vLLM does not work here; its output is above')
writeFileSync(stampFile, stamp)
process.stdout.write(`${wanted.name} is ready\n`)

/** Ends this process: the environment cannot be made here. */
function stop(reason: string): never {
  process.stdout.write(optional ? `SKIP ${wanted.name}: ${reason}\n` : `${reason}\n`)
  process.exit(optional ? 3 : 1)
}

function runs(program: string, args: readonly string[]): boolean {
  return spawnSync(program, args, { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] }).status === 0
}

/** The interpreter the environment is made from, by path and version; a new one means a new environment. */
function basePython(): string {
  const code = `import sys; print(sys.version_info >= (3, ${wanted.minor}), sys.version.split()[0], sys.executable)`
  const { status, stdout } = spawnSync('python3', ['-c', code], { encoding: 'utf8' })
  if (status !== 0) stop('python3 is missing; on Debian and Ubuntu: apt-get install python3 python3-venv')
  if (!stdout.startsWith('True')) stop(`Python 3.${wanted.minor} or newer is needed, python3 is ${stdout.split(' ')[1]}`)
  if (large && (process.platform !== 'linux' || process.arch !== 'x64'))
    stop(`there is no build of ${wanted.name} for ${process.platform} ${process.arch}`)
  return stdout.trim()
}

/** Digest of all that decides what the environment holds. */
function wantedStamp(base: string): string {
  const hash = createHash('sha256').update(base).update(ROOT)
  const locks = [wanted.lock, ...(optional ? [] : ['torch.lock'])].map((file) => join(PYTHON, file))
  for (const file of [...locks, ...wanted.packages.map((directory) => join(directory, 'pyproject.toml'))]) {
    hash.update('\0').update(readFileSync(file))
  }
  return hash.digest('hex')
}

function torchHere(): string {
  return installTorch(python, { index })
}

/** A CPU build of torch, which PyPI does not have: pip's own configuration may, PyTorch's index does. */
function torchForCpu(): string {
  try {
    return installTorch(python, { local: '+cpu' })
  } catch (error) {
    if (!(error instanceof PipError)) throw error
    return installTorch(python, { local: '+cpu', index: index ?? 'https://download.pytorch.org/whl/cpu' })
  }
}
