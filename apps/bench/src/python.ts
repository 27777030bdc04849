import { access } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

/**
 * Returns the Python interpreter: `python`, otherwise `$CKPT_PYTHON`, otherwise `.venv/bin/python` in the repository root,
 * otherwise `python3`.
 */
export async function interpreter(python = process.env['CKPT_PYTHON']): Promise<string> {
  if (python !== undefined && python !== '') return python
  const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
  return access(local).then(
    () => local,
    () => 'python3',
  )
}
