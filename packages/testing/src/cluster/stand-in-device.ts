import type { Device, Ring } from '@ckpt/contract'
import { createHostDevice } from '@ckpt/transport'

/**
 * Returns a host device whose rings look like CUDA memory from outside: in place of a ring's CUDA IPC handle there is the name
 * of its shared memory. Workers that run under stand_in_cuda.py open it; everything in between is the same as with a GPU.
 */
export async function standInCudaDevice(rank: number): Promise<Device> {
  const device = await createHostDevice({ rank })
  const createRing = device.createRing.bind(device)
  const uuid = device.uuid.replace('HOST-', 'GPU-')
  return Object.assign(device, {
    uuid,
    async createRing(bytes: number): Promise<Ring> {
      const ring = await createRing(bytes)
      if (ring.handle.kind !== 'shm') return ring
      const handle = Buffer.alloc(64)
      handle.write(ring.handle.name)
      return Object.defineProperty(ring, 'handle', {
        value: { ...ring.handle, kind: 'cuda', handle, deviceUuid: uuid },
      })
    },
  })
}
