import { CkptError, type BucketPull, type Manifest, type PullRuns, type TransferPlan } from '@ckpt/contract'
import { MAX_GAP } from './align.ts'
import { metasOf } from './lookup.ts'
import { findReplicas, type Replica } from './replicas.ts'

const indexed = new WeakMap<Manifest, ReadonlyMap<number, Replica>[]>()

/**
 * Returns the sources of one bucket's bytes: every tensor comes from its owner or, if that is among `lost`, from the other
 * holder that so far contributes least to this bucket. Runs are merged as in {@link copiesFor}.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the bucket does not exist or the manifest is not the plan's.
 */
export function pullOf(plan: TransferPlan, manifest: Manifest, bucket: number, lost: ReadonlySet<number>): BucketPull {
  const { buckets, items } = plan
  const owner = buckets.owner[bucket]
  if (owner === undefined) {
    throw new CkptError('INVALID_ARGUMENT', `no bucket ${bucket} among ${buckets.count}`, { fields: { field: 'bucket' } })
  }
  const own = metasOf(plan, manifest, owner)
  const runs = new Map<number, Runs>()
  const missing: string[] = []
  const add = (rank: number, row: number, to: number): void => {
    let list = runs.get(rank)
    if (list === undefined) runs.set(rank, (list = new Runs()))
    const { segments, offsets, bytes } = metasOf(plan, manifest, rank).tensors
    list.add(segments[row]!, offsets[row]!, to, bytes[row]!)
  }
  for (let item = buckets.firstItem[bucket]!; item < buckets.firstItem[bucket + 1]!; item++) {
    const row = items.tensor[item]!
    if (own.tensors.bytes[row] === 0) continue
    const to = items.bucketOffset[item]!
    if (!lost.has(owner)) {
      add(owner, row, to)
      continue
    }
    const replica = replicasOf(manifest)[manifest.ranks.indexOf(own)]!.get(row)
    let best: { rank: number; row: number } | undefined
    replica?.holders.forEach((holder, index) => {
      const { rank } = manifest.ranks[holder]!
      if (lost.has(rank) || (best && (runs.get(best.rank)?.total ?? 0) <= (runs.get(rank)?.total ?? 0))) return
      best = { rank, row: replica.rows[index]! }
    })
    if (best) add(best.rank, best.row, to)
    else missing.push(own.tensors.names.at(row))
  }
  return { from: [...runs].map(([rank, list]) => list.columns(rank)), missing }
}

/** Replicas of a rank's rows that others hold too, by the rank's position in the manifest. */
function replicasOf(manifest: Manifest): ReadonlyMap<number, Replica>[] {
  let index = indexed.get(manifest)
  if (index === undefined) {
    const maps = manifest.ranks.map(() => new Map<number, Replica>())
    for (const replica of findReplicas(manifest)) {
      replica.holders.forEach((holder, at) => maps[holder]!.set(replica.rows[at]!, replica))
    }
    indexed.set(manifest, (index = maps))
  }
  return index
}

class Runs {
  total = 0
  readonly #numbers: number[] = []

  add(segment: number, from: number, to: number, bytes: number): void {
    const numbers = this.#numbers
    const last = numbers.length - 4
    this.total += bytes
    if (last >= 0 && numbers[last] === segment) {
      const gap = from - numbers[last + 1]! - numbers[last + 3]!
      if (gap >= 0 && gap <= MAX_GAP && to - numbers[last + 2]! === from - numbers[last + 1]!) {
        numbers[last + 3]! += gap + bytes
        return
      }
    }
    numbers.push(segment, from, to, bytes)
  }

  columns(rank: number): PullRuns {
    const count = this.#numbers.length / 4
    const column = (index: number) => Float64Array.from({ length: count }, (_, run) => this.#numbers[run * 4 + index]!)
    return { rank, count, segment: column(0), segmentOffset: column(1), bucketOffset: column(2), bytes: column(3) }
  }
}
