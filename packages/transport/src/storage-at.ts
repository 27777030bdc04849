import { CkptError, type StridedCopy } from '@ckpt/contract'

/** One side of a copy. */
interface Side {
  readonly storage: number
  readonly offset: number
  readonly pitch: number
}

export function sourceOf({ source: storage, sourceOffset: offset, sourcePitch: pitch }: StridedCopy): Side {
  return { storage, offset, pitch }
}

export function destinationOf({ destination: storage, destinationOffset: offset, destinationPitch: pitch }: StridedCopy): Side {
  return { storage, offset, pitch }
}

/**
 * Returns the storage of one side of a copy, which must contain it.
 *
 * @throws CkptError `INVALID_ARGUMENT` if there is no such storage, or the copy leaves it.
 */
export function storageAt<Place extends { readonly bytes: number }>(
  places: readonly Place[],
  { rowBytes, rows }: StridedCopy,
  { storage, offset, pitch }: Side,
): Place {
  const place = places[storage]
  if (place === undefined) {
    throw new CkptError('INVALID_ARGUMENT', `there is no storage ${storage} among ${places.length}`, {
      fields: { field: 'storage' },
    })
  }
  const end = rows === 0 || rowBytes === 0 ? 0 : offset + (rows - 1) * pitch + rowBytes
  if (end <= place.bytes) return place
  throw new CkptError('INVALID_ARGUMENT', `a copy reaches byte ${end} of storage ${storage}, which has ${place.bytes} bytes`, {
    fields: { field: 'storage', storage },
  })
}
