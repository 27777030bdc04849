import { cpus } from 'node:os'
import { type Host, StridedCopies, type StridedCopy } from '@ckpt/contract'
import { engineLayout, type CheckpointTensor } from '@ckpt/models'
import type { CeilingProbe } from './ceilings.ts'

/** Maximum kept bytes, the same for every model, so that caches have the same effect. */
const KEPT_BYTES = 96 * 2 ** 20
const ALIGNMENT = 256

/** Copies one engine worker's slices out of consecutive tensors, on all processors; a reading counts kept bytes. */
export async function sliceProbe(host: Host, tensors: readonly CheckpointTensor[], tpSize: number): Promise<CeilingProbe> {
  const { placements } = engineLayout(tensors, 0, tpSize)
  const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
  const copies: StridedCopy[] = []
  let source = 0
  let destination = 0
  let kept = 0
  for (const { name, bytes } of tensors) {
    const { sourceOffset, sourcePitch, rowBytes, rows, destinationPitch } = placements.get(name)!
    if (kept + rows * rowBytes > KEPT_BYTES || rowBytes === 0) continue
    copies.push({
      source: 0,
      sourceOffset: source + sourceOffset,
      sourcePitch,
      destination: 1,
      destinationOffset: destination,
      destinationPitch,
      rowBytes,
      rows,
    })
    source += align(bytes)
    destination += align(rows * rowBytes)
    kept += rows * rowBytes
  }
  const ring = await host.allocate({ bytes: Math.max(source, ALIGNMENT), lock: false })
  const parameters = await host.allocate({ bytes: Math.max(destination, ALIGNMENT), lock: false })
  await host.fill(ring, { seed: 1n })
  await host.fill(parameters, { seed: 2n })
  const list = StridedCopies.from(copies)
  return {
    async read() {
      const { milliseconds } = await host.copy([ring, parameters], list, { threads: cpus().length })
      return (kept / milliseconds) * 1000
    },
    [Symbol.dispose]() {
      ring.close()
      parameters.close()
    },
  }
}
