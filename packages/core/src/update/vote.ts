import { CkptError, type Epoch, type PreparedTensors, type Rendezvous } from '@ckpt/contract'

/** Vote of a rank when its worker is prepared: the first phase of the two-phase commit. */
interface Vote {
  readonly rank: number
  /** Digest of the manifest of the loaded tensors. */
  readonly manifest: string
  readonly tensors: number
  readonly bytes: number
}

/**
 * Resolves when every rank's worker has prepared the same tensors. Otherwise it rejects: a rank that failed has aborted the
 * epoch instead of voting, and votes that differ are an error. No rank commits before.
 *
 * @throws CkptError `DIGEST_MISMATCH` naming the ranks that prepared something else, `ABORTED`, `RANK_LOST`, `RANK_MISSING`.
 */
export async function vote(
  rendezvous: Rendezvous,
  epoch: Epoch,
  prepared: PreparedTensors,
  options: { timeoutMs: number; signal: AbortSignal },
): Promise<void> {
  const { rank } = rendezvous
  const own: Vote = { rank, manifest: prepared.manifestDigest, tensors: prepared.tensors, bytes: prepared.bytes }
  const votes = await rendezvous.allGather('update/prepared', own, { epoch: epoch.id, ...options })
  const other = votes.filter(
    ({ manifest, tensors, bytes }) => manifest !== own.manifest || tensors !== own.tensors || bytes !== own.bytes,
  )
  if (other.length === 0) return
  const ranks = other.map((one) => one.rank)
  throw new CkptError(
    'DIGEST_MISMATCH',
    `the workers of ranks ${ranks.join(', ')} prepared tensors that differ from those of rank ${rank}`,
    {
      fields: { ranks, field: 'manifest' },
    },
  )
}
