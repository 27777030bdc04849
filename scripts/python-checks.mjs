// Checks of the Python packages: `--checks` runs ruff, import-linter and mypy, `--tests` runs pytest, neither flag runs all of them.
// The interpreter is CKPT_PYTHON, else .venv/bin/python, else python3. Where it, or torch, is missing, one line says so and the
// status is 0: nothing optional stops the caller.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
/** The Python packages, each with its source in src/. */
const packages = ['packages/python', 'packages/testing/python'].map((path) => join(root, path))
/** Every check reads this tree, wherever the environment has its packages from. */
const env = {
  ...process.env,
  PYTHONPATH: packages
    .map((path) => join(path, 'src'))
    .concat(process.env.PYTHONPATH || [])
    .join(delimiter),
}
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
  process.stdout.write(`SKIP Python ${tests ? 'tests' : 'checks'}: ${reason}\n`)
  process.exit(0)
}

/** Runs the interpreter in each package; false at the first that fails. */
function run(args, what) {
  return packages.every((cwd) => {
    const { status, signal, error } = spawnSync(python, args, { cwd, env, stdio: ['ignore', 'inherit', 'inherit'] })
    if (error) process.stderr.write(`${what}: ${error.message}\n`)
    if (signal) process.stderr.write(`${what} was ended by ${signal}\n`)
    return status === 0
  })
}

/** Says why the interpreter cannot do the job, or nothing when it can. */
function missing(modules) {
  const code = `import sys
if sys.version_info < (3, 10): print(f'Python 3.10 or newer is needed, this is {sys.version.split()[0]}'); sys.exit()
import importlib.util
names = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
if names: print('no module named ' + ', '.join(names))`
  const { status, stdout, error } = spawnSync(python, ['-c', code, ...modules], { encoding: 'utf8', env })
  if (error) return `cannot run ${python} (${error.message})`
  if (status !== 0) return `${python} does not work`
  const reason = stdout.trim()
  return reason === '' ? undefined : `${reason} in ${python} (npm run setup:python brings it)`
}

const needed = [
  'torch',
  'zmq',
  'msgspec',
  'safetensors',
  'numpy',
  'pytest',
  'hypothesis',
  'hatchling',
  'ckpt_worker',
  'ckpt_reference',
]
const reason = missing([...(tests ? needed : ['torch']), ...(checks ? ['ruff', 'mypy', 'importlinter'] : [])])
if (reason !== undefined) skip(reason)

/** What import-linter's program does; the package itself cannot be run by `-m`. */
const LINT_IMPORTS = 'from importlinter.cli import lint_imports_command; lint_imports_command()'

const passed =
  (!checks ||
    (run(['-m', 'ruff', 'check', '--quiet', '.'], 'ruff check') &&
      run(['-m', 'ruff', 'format', '--quiet', '--check', '.'], 'ruff format') &&
      run(['-c', LINT_IMPORTS, '--no-cache'], 'import-linter') &&
      run(['-m', 'mypy'], 'mypy'))) &&
  (!tests || run(['-m', 'pytest', '-q'], 'pytest'))
process.exit(passed ? 0 : 1)
