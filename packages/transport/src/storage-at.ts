import { CkptError } from '@ckpt/contract'

/**
 * The storage that one side of a copy (columns from `column` on: index, offset, pitch) lies in, all of it.
 *
 * @throws CkptError `INVALID_ARGUMENT` where there is no such storage, or the copy leaves it.
 */
export function storageAt<Place extends { readonly bytes: number }>(
  places: readonly Place[],
  rows: Float64Array,
  at: number,
  column: number,
): Place {
  const index = rows[at + column]!
  const place = places[index]
  if (place === undefined) {
    throw new CkptError('INVALID_ARGUMENT', `there is no storage ${index} among ${places.length}`, {
      fields: { field: 'storage' },
    })
  }
  const [rowBytes, count] = [rows[at + 6]!, rows[at + 7]!]
  const end = count === 0 || rowBytes === 0 ? 0 : rows[at + column + 1]! + (count - 1) * rows[at + column + 2]! + rowBytes
  if (end <= place.bytes) return place
  throw new CkptError('INVALID_ARGUMENT', `a copy reaches byte ${end} of storage ${index}, which has ${place.bytes} bytes`, {
    fields: { field: 'storage', storage: index },
  })
}
