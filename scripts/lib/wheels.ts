import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { makeBundle } from '@ckpt/bundle'
import { run } from './process.mjs'
import { PYTHON_PACKAGES, pythonProgram } from './python.ts'
import { ROOT } from './root.mjs'

const PACKAGE = PYTHON_PACKAGES[0]!
/** What of the package goes into its wheels. */
const PARTS = ['src', 'pyproject.toml', 'hatch_build.py', 'README.md']
const BUILD_TIMEOUT_MS = 5 * 60_000

/** Wheels of the Python distribution. */
export interface Wheels {
  /** For this platform, with the rank program and its Node. */
  readonly platform: string
  /** For any platform: engines need no rank program. */
  readonly pure: string
}

/**
 * Builds the wheels of the distribution `ckpt` into `out`.
 *
 * @throws Error with what the build printed
 */
export async function buildWheels(out: string): Promise<Wheels> {
  const scratch = mkdtempSync(join(tmpdir(), 'ckpt-wheels-'))
  try {
    const filter = (path: string) => !path.includes('__pycache__')
    for (const name of PARTS) cpSync(join(PACKAGE, name), join(scratch, name), { recursive: true, filter })
    cpSync(join(ROOT, 'LICENSE'), join(scratch, 'LICENSE'))
    mkdirSync(out, { recursive: true })
    const pure = await build(scratch, out)
    await makeBundle(join(scratch, 'src/ckpt/_bundle'), { node: 'packed', programs: ['rank'] })
    return { pure, platform: await build(scratch, out) }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** Builds what is in `directory`; returns the wheel's path. */
async function build(directory: string, out: string): Promise<string> {
  const dist = join(directory, 'dist')
  const { code, output } = await run(pythonProgram, ['-m', 'hatchling', 'build', '-t', 'wheel', '-d', dist], {
    cwd: directory,
    capture: true,
    timeoutMs: BUILD_TIMEOUT_MS,
  })
  const [name] = code === 0 ? readdirSync(dist) : []
  if (name === undefined) throw new Error(`building a wheel failed:\n${output}`)
  cpSync(join(dist, name), join(out, name))
  rmSync(dist, { recursive: true })
  return join(out, name)
}
