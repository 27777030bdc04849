import type { HostMemory } from '@ckpt/contract'
import type { RdmaAccess, RdmaDevice, RdmaMemoryRegion } from '@ckpt/rdma-core-bindings'
import { native } from '../addon.ts'
import { viewsOf } from '../registrations.ts'

/**
 * Registers a range of memory with every device. @throws CkptError with the device's refusal; then nothing stays registered.
 */
export async function registerRange(
  devices: readonly RdmaDevice[],
  memory: HostMemory,
  offset: number,
  bytes: number,
  access: RdmaAccess,
): Promise<RdmaMemoryRegion[]> {
  const views = viewsOf(memory, offset, bytes)
  const results = await Promise.allSettled(devices.map((device) => native(() => device.registerMemory(views, access))))
  const regions = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  const failed = results.find((result) => result.status === 'rejected')
  if (failed === undefined) return regions
  await Promise.all(regions.map((region) => region.close()))
  throw failed.reason
}
