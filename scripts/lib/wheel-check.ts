import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from './process.mjs'
import { PYTHON_PACKAGES, pythonProgram } from './python.ts'
import { ROOT } from './root.mjs'

/** What the wheel's Node is started with; no Node is among it. */
const COMMANDS = ['cat', 'chmod', 'dirname', 'head', 'mkdir', 'mv', 'readlink', 'rm', 'sed', 'sh', 'sha256sum', 'tr', 'xz']
const TIMEOUT_MS = 3 * 60_000

/**
 * Installs the platform wheel into a new environment, and runs a trainer there (scripts/python/wheel_trainer.py), without Node on
 * the PATH: it updates an engine worker three times and compares the parameters.
 *
 * @returns what the trainer printed @throws Error with what failed
 */
export async function checkWheel(wheel: string): Promise<string> {
  const scratch = mkdtempSync(join(tmpdir(), 'ckpt-wheel-check-'))
  try {
    const venv = join(scratch, 'venv')
    const python = join(venv, 'bin/python')
    await must(pythonProgram, ['-m', 'venv', venv])
    // unchecked: the wheel that was just built, and nothing from an index.
    await must(python, ['-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps', '--disable-pip-version-check', wheel])
    // What the wheel needs is taken from the environment that the tests use; its own packages are found before.
    writeFileSync(join(sitePackages(python), 'needs.pth'), `${sitePackages(pythonProgram)}\n`)

    const commands = join(scratch, 'commands')
    mkdirSync(commands)
    for (const name of COMMANDS) symlinkSync(commandPath(name), join(commands, name))
    const trainer = join(scratch, 'trainer.py')
    writeFileSync(trainer, readFileSync(join(ROOT, 'scripts/python/wheel_trainer.py')))
    const env = { PATH: commands, HOME: scratch, PYTHONPATH: join(PYTHON_PACKAGES[1]!, 'src') }
    return (await must(python, [trainer, venv], { cwd: scratch, env })).trim()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function sitePackages(python: string): string {
  const { stdout } = spawnSync(python, ['-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], { encoding: 'utf8' })
  return stdout.trim()
}

function commandPath(name: string): string {
  const { stdout } = spawnSync('sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8' })
  if (stdout.trim() === '') throw new Error(`there is no ${name} on the PATH`)
  return stdout.trim()
}

async function must(
  program: string,
  args: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<string> {
  const { code, output } = await run(program, args, { ...options, capture: true, timeoutMs: TIMEOUT_MS })
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} failed (${code}):\n${output}`)
  return output
}
