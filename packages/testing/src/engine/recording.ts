import type { Recording } from '@ckpt/contract'
import type { Layout, LayoutTensor } from '@ckpt/models'

/** Returns a layout as routes into one storage in which parameters begin at `offsets`. */
export function recordingOf(
  id: string,
  tensors: readonly LayoutTensor[],
  layout: Layout,
  offsets: ReadonlyMap<string, number>,
  bytes: number,
): Recording {
  return {
    id,
    tensors: tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    storages: [bytes],
    parameters: [...layout.parameters]
      .filter(([, size]) => size > 0)
      .map(([name, size]) => ({ name, storage: 0, offset: offsets.get(name)!, bytes: size })),
    routes: tensors.flatMap(({ name }, tensor) => {
      const { parameter, rowBytes, rows, sourceOffset, sourcePitch, destinationOffset, destinationPitch } =
        layout.placements.get(name)!
      if (rowBytes === 0) return []
      const dims = rows === 1 ? [] : [rows, sourcePitch, destinationPitch]
      return [
        { tensor, storage: 0, sourceOffset, destinationOffset: offsets.get(parameter)! + destinationOffset, rowBytes, dims },
      ]
    }),
    opaque: [],
  }
}
