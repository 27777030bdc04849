import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { missing, ok, warn, type Check, type Section } from './check.ts'

const run = promisify(execFile)
const TIMEOUT_MS = 30_000
const NEEDED = ['torch', 'pyzmq', 'msgspec', 'ckpt_worker']
const OTHERS = ['safetensors', 'vllm', 'sglang', 'checkpoint-engine']

// Finds packages without importing them: importing torch alone takes seconds.
const SCRIPT = `
import importlib.metadata as m, importlib.util as u, json, os, sys
def version(name, module=None):
    spec = u.find_spec(module or name.replace('-', '_'))
    if spec is None: return None
    try: return m.version('ckpt' if name == 'ckpt_worker' else name)
    except m.PackageNotFoundError: return 'version unknown'
def nccl():
    spec = u.find_spec('nvidia')
    for folder in (spec.submodule_search_locations if spec else []):
        path = os.path.join(folder, 'nccl', 'lib', 'libnccl.so.2')
        if os.path.exists(path): return path
names = {'pyzmq': 'zmq'}
packages = {name: version(name, names.get(name)) for name in sys.argv[1:]}
print(json.dumps({'version': sys.version.split()[0], 'path': sys.executable, 'nccl': nccl(), 'packages': packages}))
`

/** Facts about a Python interpreter. */
export interface PythonFacts {
  readonly version: string
  readonly path: string
  /** NCCL included in its packages. */
  readonly nccl: string | null
  /** Versions; null for missing packages. */
  readonly packages: Readonly<Record<string, string | null>>
}

/** Inspects an interpreter; returns the reason if there is none. */
export async function askPython(interpreter: string): Promise<PythonFacts | string> {
  try {
    const { stdout } = await run(interpreter, ['-c', SCRIPT, ...NEEDED, ...OTHERS], { timeout: TIMEOUT_MS })
    return JSON.parse(stdout) as PythonFacts
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string }
    if (code === 'ENOENT') return `no interpreter ${interpreter}`
    return `${interpreter} fails: ${stderr?.trim().split('\n').at(-1) || String(error)}`
  }
}

/** Checks the interpreter and what an engine worker needs of it. */
export function pythonSection(python: PythonFacts | string): Section {
  return {
    title: 'Python',
    checks: typeof python === 'string' ? [absent(python)] : [interpreterCheck(python), ...packages(python)],
  }
}

function absent(problem: string): Check {
  return missing('python', problem, 'only Python engine workers need it; select an interpreter with CKPT_PYTHON or --python')
}

function interpreterCheck({ version, path, packages: found }: PythonFacts): Check {
  const others = OTHERS.flatMap((name) => (typeof found[name] === 'string' ? [`${name} ${found[name]}`] : []))
  const [, minor] = version.split('.').map(Number)
  const text = [`${version} at ${path}`, ...others].join(', ')
  const facts = { version, path, packages: found }
  return minor! >= 10 ? ok('python', text, facts) : warn('python', text, 'the worker package needs Python 3.10 or newer', facts)
}

function packages({ packages: found }: PythonFacts): Check[] {
  return NEEDED.map((name) => {
    const version = found[name]
    if (typeof version === 'string') return ok(`python.${name}`, version)
    const remedy =
      name === 'ckpt_worker'
        ? "add the bundle's python/ to PYTHONPATH, or pip install packages/python"
        : `pip install ${name}; inference engines include it`
    return missing(`python.${name}`, 'not installed', remedy)
  })
}
