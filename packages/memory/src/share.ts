import { CkptError } from '@ckpt/contract'
import type { SafetensorsHeader } from '@ckpt/safetensors'

/** A run of a file's tensors: from `header.tensors[first]` up to, but excluding, `header.tensors[last]`. */
export interface FileShare {
  readonly header: SafetensorsHeader
  readonly first: number
  readonly last: number
}

/**
 * Returns the part of a checkpoint's files for rank `index` of `count` ranks that are all given the same files in the same
 * order.
 *
 * The tensors, in file and offset order, are divided where they cross k/count of all bytes; a tensor that a cut would split
 * belongs to the side that contains its middle. So every tensor is in exactly one share, shares are contiguous, and each
 * differs from bytes/count by at most the largest tensor. Files without a tensor of the share are left out.
 *
 * @throws CkptError `INVALID_ARGUMENT` if `index` is not one of `count` ranks.
 */
export function shareOf(headers: readonly SafetensorsHeader[], index: number, count: number): FileShare[] {
  if (!Number.isSafeInteger(count) || count < 1 || !Number.isSafeInteger(index) || index < 0 || index >= count) {
    throw new CkptError('INVALID_ARGUMENT', `share ${index} of ${count} does not exist`, { fields: { field: 'share' } })
  }
  let total = 0
  for (const header of headers) total += header.fileBytes - header.dataStart
  const shares: FileShare[] = []
  let before = 0
  for (const header of headers) {
    const { tensors } = header
    let first = tensors.length
    let last = 0
    for (let i = 0; i < tensors.length; i++) {
      const { begin, end } = tensors[i]!
      const middle = before + (begin + end) / 2
      const owner = total === 0 ? 0 : Math.min(count - 1, Math.floor((middle / total) * count))
      if (owner !== index) continue
      first = Math.min(first, i)
      last = i + 1
    }
    if (first < last) shares.push({ header, first, last })
    before += header.fileBytes - header.dataStart
  }
  return shares
}
