import { createHash } from 'node:crypto'
import { CkptError, type Manifest, type RankMetas } from '@ckpt/contract'

/** Returns a manifest over the ranks' metas, ascending by rank; its digest covers theirs. */
export function manifestOf(checkpoint: string, ranks: readonly RankMetas[]): Manifest {
  const sorted = [...ranks].sort((a, b) => a.rank - b.rank)
  sorted.forEach((metas, index) => {
    if (metas.rank === sorted[index - 1]?.rank) {
      throw new CkptError('METAS_MALFORMED', `rank ${metas.rank} is listed twice in the metas of ${checkpoint}`, {
        fields: { rank: metas.rank },
      })
    }
  })
  const hash = createHash('sha256')
  for (const { digest } of sorted) hash.update(digest).update('\n')
  return { checkpoint, ranks: sorted, digest: hash.digest('hex').slice(0, 32) }
}

/** Number of tensors of all ranks. */
export function tensorCount(manifest: Manifest): number {
  return manifest.ranks.reduce((sum, rank) => sum + rank.tensors.count, 0)
}
