import type { PlannedUpdate, UpdateContext } from '@ckpt/contract'
import { subsetOf } from '@ckpt/planner'
import { planStaged } from '@ckpt/staging'
import { alignUp } from '@ckpt/utils'
import type { Direct } from './direct-state.ts'

/** Maximum size of the ring for opaque tensors, if none of them is larger. */
const RING_BYTES = 64 * 2 ** 20
const PAGE = 4096

/** Part of a direct update that goes through a ring. */
export interface ThroughRing {
  readonly manifest: UpdateContext['manifest']
  readonly planned: PlannedUpdate
}

/** Plans the part of a direct update that goes through a ring: opaque tensors, and those to compare. Undefined if there are none. */
export function throughRing(context: UpdateContext, { prepared, check }: Direct): ThroughRing | undefined {
  const { manifest, ring, staged } = context
  const names = [...prepared.plan.opaque.map(({ name }) => name), ...(check?.tensors ?? [])]
  if (names.length === 0) return undefined
  const part = subsetOf(manifest, new Set(names))
  const largest = Math.max(...part.ranks.flatMap(({ tensors }) => [...tensors.bytes]), 0)
  const wanted = Math.max(RING_BYTES, alignUp(largest, PAGE))
  return { manifest: part, planned: planStaged(context, staged, part, Math.min(ring.limitBytes, wanted)) }
}
