import { readdir } from 'node:fs/promises'
import { CkptError } from '@ckpt/contract'
import { unreadable } from './malformed.ts'

export const INDEX_SUFFIX = '.safetensors.index.json'
const SUFFIX = '.safetensors'

/** Files of a checkpoint in a directory, by name: an index, or the files themselves, ascending. */
export type Choice = { readonly index: string } | { readonly files: readonly string[] }

/**
 * Chooses the files of a checkpoint in a directory: `model.safetensors.index.json` or the only index there, then
 * `model.safetensors`, then all `*.safetensors`. Names that start with a dot are skipped, as by `glob`: macOS and downloads
 * create such files.
 *
 * @throws CkptError `CHECKPOINT_UNREADABLE` naming the directory, `INVALID_ARGUMENT` if several indexes exist and none is
 * `model`'s.
 */
export async function chooseFiles(directory: string): Promise<Choice> {
  const all = await readdir(directory).catch((error: unknown) => Promise.reject(unreadable(directory, error)))
  const names = all.filter((name) => !name.startsWith('.')).sort()
  const indexes = names.filter((name) => name.endsWith(INDEX_SUFFIX))
  const index = indexes.includes(`model${INDEX_SUFFIX}`) ? `model${INDEX_SUFFIX}` : indexes[0]
  if (index !== undefined) {
    if (index === `model${INDEX_SUFFIX}` || indexes.length === 1) return { index }
    throw new CkptError('INVALID_ARGUMENT', `${directory}: several indexes (${indexes.join(', ')}): name the one to use`, {
      fields: { file: directory },
    })
  }
  if (names.includes(`model${SUFFIX}`)) return { files: [`model${SUFFIX}`] }
  const files = names.filter((name) => name.endsWith(SUFFIX))
  if (files.length > 0) return { files }
  throw new CkptError('CHECKPOINT_UNREADABLE', `${directory}: no safetensors file in this directory${hint(all)}`, {
    fields: { file: directory },
  })
}

/** Describes a file that is almost a safetensors file. */
function hint(names: readonly string[]): string {
  const upper = names.find((name) => !name.endsWith(SUFFIX) && name.toLowerCase().endsWith(SUFFIX))
  if (upper !== undefined) return ` (${upper} is not one: the name must end with ${SUFFIX}, in lower case)`
  const hidden = names.find((name) => name.startsWith('.') && name.endsWith(SUFFIX))
  if (hidden !== undefined) return ` (${hidden} is skipped: names that start with a dot are hidden)`
  const other = names.find((name) => /\.(?:bin|pt|pth|gguf|npz)$/.test(name))
  return other === undefined ? '' : ` (${other} is in a different format)`
}
