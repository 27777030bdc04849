import { type DType, tensorBytes } from '@ckpt/contract'
import { scaled } from './architecture.ts'
import { emitCheckpoint } from './layout.ts'
import type { Model } from './model.ts'
import { type ScaleOptions, resolveScale } from './scale.ts'

/** One tensor of a checkpoint. */
export interface CheckpointTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  /** Size in bytes. */
  readonly bytes: number
}

/**
 * Returns every tensor of a published checkpoint: name, dtype, shape and size. By default it is the full checkpoint, otherwise
 * one reduced as for {@link resolveScale}.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the options are out of range or nothing fits in `bytes`.
 */
export function checkpointTensors(model: Model, options: ScaleOptions = {}): CheckpointTensor[] {
  const tensors: CheckpointTensor[] = []
  emitCheckpoint(scaled(model.architecture, resolveScale(model, options)), (name, dtype, shape) => {
    tensors.push({ name, dtype, shape, bytes: tensorBytes(dtype, shape) })
  })
  return tensors
}
