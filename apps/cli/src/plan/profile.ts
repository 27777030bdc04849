import { readFileSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import type { Rates } from '@ckpt/planner'

/**
 * Reads rates of a user's machine: `base` with the fields that a JSON file gives instead, all of them numbers above zero (or
 * zero for times), and `name` and `source`, which are text.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the file and the field.
 */
export function readProfile(path: string, base: Rates): Rates {
  const invalid = (field: string, problem: string) =>
    new CkptError('INVALID_ARGUMENT', `profile ${path}: ${field} ${problem}`, { fields: { file: path, field } })
  let given: unknown
  try {
    given = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `profile ${path}`)
  }
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw invalid('it', 'is not an object')
  for (const [field, value] of Object.entries(given)) {
    if (!(field in base) && field !== 'processors')
      throw invalid(field, `is unknown; known fields: ${Object.keys(base).join(', ')}`)
    const expected = field === 'name' || field === 'source' ? 'string' : field === 'nicToGpu' ? 'boolean' : 'number'
    if (typeof value !== expected) throw invalid(field, `must be a ${expected}`)
    if (typeof value === 'number' && !(field.endsWith('Seconds') ? value >= 0 : value > 0)) throw invalid(field, `is ${value}`)
  }
  return { ...base, name: path, source: path, ...given }
}
