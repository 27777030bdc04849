import { CkptError, DTYPES, type Manifest, type RankMetas, type RingTensor, type TransferPlan } from '@ckpt/contract'

/** Returns the metas of `rank`. @throws CkptError `INVALID_ARGUMENT` if the manifest is not the plan's or lacks the rank. */
export function metasOf(plan: TransferPlan, manifest: Manifest, rank: number): RankMetas {
  if (plan.manifestDigest !== manifest.digest) {
    throw new CkptError(
      'INVALID_ARGUMENT',
      `the plan was made from a manifest that differs from that of ${manifest.checkpoint}`,
      {
        fields: { field: 'manifest', checkpoint: manifest.checkpoint },
      },
    )
  }
  const direct = manifest.ranks[rank]
  const metas = direct?.rank === rank ? direct : manifest.ranks.find((candidate) => candidate.rank === rank)
  if (metas === undefined) {
    throw new CkptError('INVALID_ARGUMENT', `rank ${rank} is not in the manifest of ${manifest.checkpoint}`, {
      fields: { field: 'rank', ranks: [rank] },
    })
  }
  return metas
}

/**
 * Returns the tensors of one bucket as an engine worker finds them in the ring.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the bucket does not exist or the manifest is not the plan's.
 */
export function bucketTensors(plan: TransferPlan, manifest: Manifest, bucket: number): RingTensor[] {
  const { buckets, items } = plan
  const owner = buckets.owner[bucket]
  if (owner === undefined) {
    throw new CkptError('INVALID_ARGUMENT', `no bucket ${bucket} among ${buckets.count}`, { fields: { field: 'bucket' } })
  }
  const { tensors } = metasOf(plan, manifest, owner)
  const start = buckets.ringOffset[bucket]!
  const result: RingTensor[] = []
  for (let item = buckets.firstItem[bucket]!; item < buckets.firstItem[bucket + 1]!; item++) {
    const row = items.tensor[item]!
    result.push({
      name: tensors.names.at(row),
      dtype: DTYPES[tensors.dtypes[row]!]!,
      shape: tensors.shapes[tensors.shapeIds[row]!]!,
      offset: start + items.bucketOffset[item]!,
      bytes: tensors.bytes[row]!,
      ...(tensors.digests && { digest: tensors.digests[row]! }),
    })
  }
  return result
}
