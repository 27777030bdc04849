import type { UpdateOutcome } from '@ckpt/contract'

/** Describes in one line how an update moved its bytes, and why not directly. */
export function howOf({ strategy, direct, tensors }: Pick<UpdateOutcome, 'strategy' | 'direct' | 'tensors'>): string {
  if (direct === undefined) return strategy
  const { fallback, recorded, replayed, opaque } = direct
  if (fallback === undefined) {
    return opaque.length === 0 ? 'direct' : `direct, except ${opaque.length} of ${tensors} tensors (${opaque[0]!.reason})`
  }
  if (replayed !== undefined) return `replayed by the worker's recording, ${replayed} of ${tensors} tensors: ${fallback}`
  if (recorded === undefined) return `staged: ${fallback}`
  if (recorded.startsWith('recorded')) return `staged, and recorded for the next update: ${fallback}`
  return `staged: ${fallback}; recording failed: ${recorded}`
}
