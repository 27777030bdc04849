import { nameHash, tensorAt, tensorTable, type Manifest, type TensorMeta } from '@ckpt/contract'

/** Returns a manifest with only the tensors of these names; its digest differs accordingly. */
export function subsetOf(manifest: Manifest, names: ReadonlySet<string>): Manifest {
  const ranks = manifest.ranks.map((metas) => {
    const kept: TensorMeta[] = []
    const digests: bigint[] = []
    for (let row = 0; row < metas.tensors.count; row++) {
      if (!names.has(metas.tensors.names.at(row))) continue
      kept.push(tensorAt(metas.tensors, row))
      if (metas.tensors.digests) digests.push(metas.tensors.digests[row]!)
    }
    return { ...metas, tensors: tensorTable(kept, metas.tensors.digests && BigUint64Array.from(digests)) }
  })
  const sorted = [...names].sort().join('\n')
  return { ...manifest, digest: `${manifest.digest}/${names.size}-${nameHash(sorted).toString(16)}`, ranks }
}
