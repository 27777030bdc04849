import type { Manifest, RankAccess, RankMetas } from '@ckpt/contract'
import { encodeRankMetas } from '@ckpt/rendezvous'
import { manifestOf } from './manifest.ts'

/** Manifest of one world, with access to its ranks. */
export interface World {
  readonly manifest: Manifest
  readonly access: readonly RankAccess[]
}

/**
 * Returns one world's ranks followed by those of another that hold the same checkpoint, numbered consecutively. A reader reads
 * every tensor from one of its holders, and from the next if that one is lost. Ranks that hold nothing are left out.
 */
export function mergeMetas(first: World, second: World): World {
  const after = first.manifest.ranks.reduce((most, { rank }) => Math.max(most, rank), -1) + 1
  const holders = second.manifest.ranks.filter(({ tensors }) => tensors.count > 0)
  const access = [...first.access]
  const renumbered = holders.map((metas, index): RankMetas => {
    const rank = after + index
    const points = second.access.find((one) => one.rank === metas.rank)?.points ?? []
    access.push({ rank, points })
    const { digest } = encodeRankMetas({ ...metas, rank })
    return { ...metas, rank, digest }
  })
  const manifest = manifestOf(first.manifest.checkpoint, [...first.manifest.ranks, ...renumbered])
  return { manifest, access }
}

/** Returns a world without some of its ranks. */
export function withoutRanks({ manifest, access }: World, ranks: ReadonlySet<number>): World {
  if (ranks.size === 0) return { manifest, access }
  return {
    manifest: manifestOf(
      manifest.checkpoint,
      manifest.ranks.filter(({ rank }) => !ranks.has(rank)),
    ),
    access: access.filter(({ rank }) => !ranks.has(rank)),
  }
}
