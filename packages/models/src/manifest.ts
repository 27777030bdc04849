import { type Manifest, type RankMetas, type TensorTable, type TensorMeta, nameHashes, tensorTable } from '@ckpt/contract'
import type { CheckpointTensor } from './tensors.ts'

/**
 * Returns the manifest as it would be gathered if each of `ranks` ranks had registered a contiguous, equally large part of
 * `tensors` in one segment, without gaps: only metadata, for planning and for measuring the control plane. Digests are labels,
 * not hashes.
 */
export function sharedManifest(checkpoint: string, tensors: readonly CheckpointTensor[], ranks: number): Manifest {
  const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0)
  const shares: TensorMeta[][] = Array.from({ length: ranks }, () => [])
  const used = new Float64Array(ranks)
  let rank = 0
  let before = 0
  for (const tensor of tensors) {
    while (rank < ranks - 1 && before + tensor.bytes / 2 > ((rank + 1) * total) / ranks) rank++
    shares[rank]!.push({ ...tensor, segment: 0, offset: used[rank]! })
    used[rank]! += tensor.bytes
    before += tensor.bytes
  }
  return {
    checkpoint,
    digest: `${checkpoint}/${ranks}`,
    ranks: shares.map((share, index): RankMetas => ({
      rank: index,
      host: `host-${Math.floor(index / 8)}`,
      deviceUuid: `HOST-${index}`,
      segments: [{ bytes: used[index]!, kind: 'anonymous' }],
      tensors: withNameHashes(tensorTable(share)),
      digest: `${checkpoint}/${ranks}/${index}`,
    })),
  }
}

function withNameHashes(table: TensorTable): TensorTable {
  return { ...table, nameHashes: nameHashes(table.names) }
}
