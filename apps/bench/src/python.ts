import { access } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

/** The Python interpreter to use: `python`, else `$CKPT_PYTHON`, else `.venv/bin/python` in the repository root, else `python3`. */
export async function interpreter(python = process.env['CKPT_PYTHON']): Promise<string> {
  if (python !== undefined && python !== '') return python
  const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
  return access(local).then(
    () => local,
    () => 'python3',
  )
}
