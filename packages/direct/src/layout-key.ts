import { createHash } from 'node:crypto'
import type { Manifest, TensorTable } from '@ckpt/contract'

/**
 * Returns a key of the location of every tensor, including its host, but not of its contents: checkpoints with equal keys have the same
 * direct plan. Each step of a training loop registers such a checkpoint.
 */
export function layoutKey({ ranks }: Manifest): string {
  const hash = createHash('sha256')
  for (const { rank, host, segments, tensors } of ranks) {
    hash.update(JSON.stringify([rank, host, segments, tensors.count, tensors.shapes]))
    for (let row = 0; row < tensors.count; row++) hash.update(`${tensors.names.at(row)}\0`)
    for (const column of columnsOf(tensors)) hash.update(column.subarray(0, tensors.count))
  }
  return hash.digest('hex').slice(0, 32)
}

function columnsOf({ dtypes, shapeIds, segments, offsets, bytes }: TensorTable) {
  return [dtypes, shapeIds, segments, offsets, bytes]
}
