/** Checks of the Python packages. Where the interpreter, or what it needs, is missing, one line says so and the exit code is 0. */
import { spawnSync } from 'node:child_process'
import { PYTHON_PACKAGES, pythonEnv, pythonLacks, pythonProgram } from './lib/python.ts'

/** Arguments of the interpreter; what import-linter's program does, since the package itself cannot be run by `-m`. */
const CHECKS = [
  ['-m', 'ruff', 'check', '--quiet', '.'],
  ['-m', 'ruff', 'format', '--quiet', '--check', '.'],
  ['-c', 'from importlinter.cli import lint_imports_command; lint_imports_command()', '--no-cache'],
  ['-m', 'mypy'],
]
const reason = pythonLacks(['torch', 'ruff', 'mypy', 'importlinter'])
if (reason !== undefined) process.stdout.write(`SKIP Python checks: ${reason}\n`)
else {
  for (const args of CHECKS) {
    for (const cwd of PYTHON_PACKAGES) {
      const { status, signal, error } = spawnSync(pythonProgram, args, {
        cwd,
        env: pythonEnv,
        stdio: ['ignore', 'inherit', 'inherit'],
      })
      if (status === 0) continue
      process.stderr.write(`${args.join(' ')} in ${cwd} failed: ${error?.message ?? signal ?? `exit code ${status}`}\n`)
      process.exitCode = 1
    }
  }
}
