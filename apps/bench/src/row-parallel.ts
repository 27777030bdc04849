import type { Host } from '@ckpt/contract'
import { generateTensors, type GeneratedCheckpoint } from '@ckpt/testing'
import type { CheckpointTensor } from '@ckpt/models'

/** Columns of Qwen3-30B-A3B's down projections: two ranks take rows of 384 elements, 768 bytes, each. */
const COLUMNS = 768
const ROWS = 2048
const EXPERTS = 128

/** Subject of `--model row-parallel`: only weights of which every rank takes a part of each row. */
export const ROW_PARALLEL = { id: 'row-parallel', title: 'row-parallel weights alone (BF16, 768 columns)' }

export function generateRowParallel(host: Host, bytes: number): Promise<GeneratedCheckpoint> {
  const size = ROWS * COLUMNS * 2
  const count = Math.max(1, Math.floor(bytes / size))
  const tensors = Array.from({ length: count }, (_, index): CheckpointTensor => {
    const layer = Math.floor(index / EXPERTS)
    const name = `model.layers.${layer}.mlp.experts.${index % EXPERTS}.down_proj.weight`
    return { name, dtype: 'BF16', shape: [ROWS, COLUMNS], bytes: size }
  })
  return generateTensors(host, tensors, { id: ROW_PARALLEL.id, label: 'a', seed: 7n << 32n, scale: `${count} tensors` })
}
