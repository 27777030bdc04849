import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Returns the Python of the repository's own environment, or the one in CKPT_PYTHON. */
export function pythonInterpreter(): string {
  const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
  return process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')
}

/** Returns the reason why Python engines cannot run here, or undefined. */
export function pythonLacks(...modules: string[]): string | undefined {
  return pythonProblem(`import ${modules.join(', ')}`)
}

/** Returns the reason why a check in Python fails, or undefined. */
export function pythonProblem(code: string): string | undefined {
  try {
    execFileSync(pythonInterpreter(), ['-c', code], { stdio: 'pipe' })
    return undefined
  } catch (error) {
    return String((error as { stderr?: Buffer }).stderr ?? error)
      .trim()
      .split('\n')
      .at(-1)
  }
}
