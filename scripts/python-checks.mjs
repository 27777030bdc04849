// Checks of the Python worker package: `--checks` runs ruff and mypy, `--tests` runs pytest, neither flag runs all of them.
// The interpreter is CKPT_PYTHON, else .venv/bin/python, else python3. Where it, or torch, is missing, one line says so and the
// status is 0: nothing optional stops the caller.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const worker = join(root, 'packages', 'vllm', 'python')
const venvPython = join(root, '.venv', 'bin', 'python')
const python = process.env.CKPT_PYTHON || (existsSync(venvPython) ? venvPython : 'python3')

const flags = process.argv.slice(2)
const unknown = flags.find((flag) => flag !== '--tests' && flag !== '--checks')
if (unknown !== undefined) {
  process.stderr.write(`unknown flag ${unknown}; usage: node scripts/python-checks.mjs [--tests] [--checks]\n`)
  process.exit(2)
}
const all = flags.length === 0
const tests = all || flags.includes('--tests')
const checks = all || flags.includes('--checks')

function skip(reason) {
  process.stdout.write(`SKIP python worker ${tests ? 'tests' : 'checks'}: ${reason}\n`)
  process.exit(0)
}

/** Runs the interpreter in the package; its exit status. */
function run(args, what) {
  const { status, signal, error } = spawnSync(python, args, { cwd: worker, stdio: ['ignore', 'inherit', 'inherit'] })
  if (error) process.stderr.write(`${what}: ${error.message}\n`)
  if (signal) process.stderr.write(`${what} was ended by ${signal}\n`)
  return status ?? 1
}

/** Says why the interpreter cannot do the job, or nothing when it can. */
function missing(modules) {
  const code = `import sys
if sys.version_info < (3, 10): print(f'Python 3.10 or newer is needed, this is {sys.version.split()[0]}'); sys.exit()
import importlib.util
names = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
if names: print('no module named ' + ', '.join(names))`
  const { status, stdout, error } = spawnSync(python, ['-c', code, ...modules], { encoding: 'utf8' })
  if (error) return `cannot run ${python} (${error.message})`
  if (status !== 0) return `${python} does not work`
  const reason = stdout.trim()
  return reason === '' ? undefined : `${reason} in ${python} (npm run setup:python brings it)`
}

const needed = ['torch', 'zmq', 'msgspec', 'safetensors', 'numpy', 'pytest', 'hypothesis', 'ckpt_worker']
const reason = missing([...(tests ? needed : ['torch']), ...(checks ? ['ruff', 'mypy'] : [])])
if (reason !== undefined) skip(reason)

let failed = 0
if (checks) {
  failed ||= run(['-m', 'ruff', 'check', '--quiet', '.'], 'ruff check')
  failed ||= run(['-m', 'ruff', 'format', '--quiet', '--check', '.'], 'ruff format')
  failed ||= run(['-m', 'mypy'], 'mypy')
}
if (tests && failed === 0) failed = run(['-m', 'pytest', '-q'], 'pytest')
process.exit(failed)
