import type { DirectReport, Manifest } from '@ckpt/contract'
import { heldTensors } from '@ckpt/planner'
import type { SpotCheck } from './direct-state.ts'

/** Returns the report's part about the layer that was compared with the engine's own loader. */
export function checkReport(check: SpotCheck | undefined, manifest: Manifest): DirectReport['check'] {
  if (check === undefined) return undefined
  const names = new Set(check.tensors)
  let bytes = 0
  for (const [name, held] of heldTensors(manifest)) if (names.has(name)) bytes += held.bytes
  return { layer: check.layer, tensors: check.tensors.length, bytes }
}
