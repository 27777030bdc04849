import { tensorTable, type RankMetas, type TensorMeta } from '@ckpt/contract'

/**
 * Returns metas with names and shapes like those of a large FP8 Mixture-of-Experts checkpoint, reduced to about `count`
 * tensors.
 */
export function expertMetas(count: number, rank = 0): Omit<RankMetas, 'digest'> {
  const tensors: TensorMeta[] = []
  let offset = 0
  const add = (name: string, dtype: TensorMeta['dtype'], shape: number[], bytes: number) => {
    tensors.push({ name, dtype, shape, bytes, segment: tensors.length >= count / 2 ? 1 : 0, offset })
    offset += Math.ceil(bytes / 256) * 256
    if (tensors.length === Math.ceil(count / 2)) offset = 0
  }
  for (let layer = 0; tensors.length < count; layer++) {
    for (let expert = 0; expert < 384 && tensors.length < count; expert++) {
      for (const part of ['down', 'gate', 'up']) {
        const prefix = `model.layers.${layer}.mlp.experts.${expert}.${part}_proj.weight`
        const shape = part === 'down' ? [7168, 2048] : [2048, 7168]
        add(prefix, 'F8_E4M3', shape, 2048 * 7168)
        add(`${prefix}_scale_inv`, 'F32', [shape[0]! / 128, shape[1]! / 128], 16 * 56 * 4)
      }
    }
  }
  const segments = [0, 1].map((segment) => ({
    kind: 'shared' as const,
    bytes: tensors.reduce((end, tensor) => (tensor.segment === segment ? Math.max(end, tensor.offset + tensor.bytes) : end), 0),
  }))
  return { rank, host: 'node-1', deviceUuid: 'HOST-0', segments, tensors: tensorTable(tensors) }
}
