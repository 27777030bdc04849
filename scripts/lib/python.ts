import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { ROOT } from './root.mjs'

/** Directories of the Python packages, each with its source in src/. */
export const PYTHON_PACKAGES = ['packages/python', 'packages/testing/python'].map((path) => join(ROOT, path))

/** Every check and test reads this tree, wherever the environment has its packages from. */
export const pythonEnv = {
  ...process.env,
  PYTHONPATH: PYTHON_PACKAGES.map((path) => join(path, 'src'))
    .concat(process.env['PYTHONPATH'] || [])
    .join(delimiter),
}

const own = join(ROOT, '.venv/bin/python')
/** The interpreter: CKPT_PYTHON, else that of .venv, else python3. */
export const pythonProgram = process.env['CKPT_PYTHON'] || (existsSync(own) ? own : 'python3')

const CODE = `import sys
if sys.version_info < (3, 10): print(f'Python 3.10 or newer is needed, this is {sys.version.split()[0]}'); sys.exit()
import importlib.util
names = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
if names: print('no module named ' + ', '.join(names))`

/** Why the interpreter cannot do the job; undefined when it can. */
export function pythonLacks(modules: readonly string[]): string | undefined {
  const names = [...modules, 'ckpt_worker', 'ckpt_reference']
  const { status, stdout, error } = spawnSync(pythonProgram, ['-c', CODE, ...names], { encoding: 'utf8', env: pythonEnv })
  if (error !== undefined) return `cannot run ${pythonProgram} (${error.message})`
  if (status !== 0) return `${pythonProgram} does not work`
  const reason = stdout.trim()
  return reason === '' ? undefined : `${reason} in ${pythonProgram} (npm run setup:python brings it)`
}
