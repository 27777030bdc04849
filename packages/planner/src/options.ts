import { CkptError, type PlanOptions } from '@ckpt/contract'

export interface ResolvedOptions {
  readonly ringLimit: number
  readonly preferredBucketBytes: number | undefined
  readonly maxBucketBytes: number
  readonly minBucketBytes: number
  readonly chunkBytes: number
  readonly lookahead: number
}

const MIB = 2 ** 20

/** Adds defaults to options. @throws CkptError `INVALID_ARGUMENT` naming the option. */
export function resolveOptions(options: PlanOptions): ResolvedOptions {
  const {
    ringBytes,
    preferredBucketBytes,
    maxBucketBytes = 256 * MIB,
    minBucketBytes = MIB,
    chunkBytes = 8 * MIB,
    lookahead = 3,
  } = options
  const positive = {
    ringBytes,
    maxBucketBytes,
    minBucketBytes,
    chunkBytes,
    lookahead,
    ...(preferredBucketBytes !== undefined && { preferredBucketBytes }),
  }
  for (const [field, value] of Object.entries(positive)) {
    if (!Number.isSafeInteger(value) || value < 1) throw invalid(field, `${field} must be a whole number above 0, not ${value}`)
  }
  return { ringLimit: ringBytes, preferredBucketBytes, maxBucketBytes, minBucketBytes, chunkBytes, lookahead }
}

/**
 * Returns `ranks` ascending and without repetition. @throws CkptError `INVALID_ARGUMENT` if it is empty or names a rank not in
 * `known`.
 */
export function resolveRanks(ranks: readonly number[] | undefined, known: readonly number[]): number[] {
  if (ranks === undefined) return [...known]
  if (ranks.length === 0) throw invalid('ranks', 'a plan needs at least one rank')
  const existing = new Set(known)
  const missing = ranks.filter((rank) => !existing.has(rank))
  if (missing.length > 0) {
    throw new CkptError('INVALID_ARGUMENT', `ranks ${missing.join(', ')} are not in the manifest`, {
      fields: { field: 'ranks', ranks: missing },
    })
  }
  return [...new Set(ranks)].sort((a, b) => a - b)
}

function invalid(field: string, message: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', message, { fields: { field } })
}
