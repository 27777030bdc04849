import type { Blob, GatherOptions, Manifest, Rendezvous } from '@ckpt/contract'
import { decodeRankMetas } from '@ckpt/rendezvous'
import { manifestOf } from './manifest.ts'

/**
 * Gathers the manifest from every rank's metas of `checkpoint`; all ranks call it, each with its own encoded metas. Unchanged
 * metas are neither sent nor decoded again: `previous` is the manifest of the last call, and is returned itself if nothing
 * changed.
 */
export async function gatherManifest(
  rendezvous: Rendezvous,
  checkpoint: string,
  own: Blob,
  previous: Manifest | undefined,
  options: GatherOptions,
): Promise<Manifest> {
  const blobs = await rendezvous.allGatherBlobs(`metas/${checkpoint}`, own, options)
  const known = new Map(previous?.ranks.map((metas) => [metas.digest, metas]))
  if (previous?.ranks.length === blobs.length && blobs.every(({ digest }, index) => digest === previous.ranks[index]!.digest))
    return previous
  return manifestOf(
    checkpoint,
    blobs.map(({ payload, digest }) => known.get(digest) ?? decodeRankMetas(payload, digest)),
  )
}
