import { cpus } from 'node:os'
import type { Host } from '@ckpt/contract'
import { engineLayout, type CheckpointTensor } from '@ckpt/models'
import type { CeilingProbe } from './ceilings.ts'

/** Kept bytes at most, the same for every model: more of them would be less in caches. */
const KEPT_BYTES = 96 * 2 ** 20
const ALIGNMENT = 256

/** Takes one engine worker's slices out of tensors that lie one after the other, all processors at work; a reading is of kept bytes. */
export async function sliceProbe(host: Host, tensors: readonly CheckpointTensor[], tpSize: number): Promise<CeilingProbe> {
  const { placements } = engineLayout(tensors, 0, tpSize)
  const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
  const columns: number[] = []
  let source = 0
  let destination = 0
  let kept = 0
  for (const { name, bytes } of tensors) {
    const { sourceOffset, sourcePitch, rowBytes, rows, destinationPitch } = placements.get(name)!
    if (kept + rows * rowBytes > KEPT_BYTES || rowBytes === 0) continue
    columns.push(0, source + sourceOffset, sourcePitch, 1, destination, destinationPitch, rowBytes, rows)
    source += align(bytes)
    destination += align(rows * rowBytes)
    kept += rows * rowBytes
  }
  const ring = await host.allocate({ bytes: Math.max(source, ALIGNMENT), lock: false })
  const parameters = await host.allocate({ bytes: Math.max(destination, ALIGNMENT), lock: false })
  await host.fill(ring, { seed: 1n })
  await host.fill(parameters, { seed: 2n })
  const copies = Float64Array.from(columns)
  return {
    async read() {
      const { milliseconds } = await host.copy([ring, parameters], copies, { threads: cpus().length })
      return (kept / milliseconds) * 1000
    },
    [Symbol.dispose]() {
      ring.close()
      parameters.close()
    },
  }
}
