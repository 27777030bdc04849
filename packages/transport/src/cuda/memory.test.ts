import type { CudaDeviceHandle, NativeCuda } from '@ckpt/native-cuda'
import pLimit from 'p-limit'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createHost } from '../host/host.ts'
import { cudaAddon } from './addon.ts'
import { registerMemory, SLICE_BYTES, type CudaHostMemory } from './memory.ts'

// A driver that refuses on request, as no real one does: this tests the handling of its answers.
vi.mock('./addon.ts', () => ({ cudaAddon: vi.fn() }))

const SLICES = 4

async function registered(pinHost: (slice: number) => Promise<string | undefined>): Promise<CudaHostMemory> {
  const addon = {
    registerHost: () => ({}),
    pinHost: (_: unknown, slice: number) => pinHost(slice),
    unregisterHost: () => Promise.resolve(),
  }
  vi.mocked(cudaAddon).mockReturnValue(addon as unknown as NativeCuda)
  const memory = await createHost().allocate({ bytes: SLICES * SLICE_BYTES, lock: false, prefault: false })
  const pinning = { threads: 1, populate: pLimit(1), pin: pLimit(1) }
  return registerMemory({} as CudaDeviceHandle, memory, { pinning }, () => undefined)
}

describe('pinning', () => {
  afterEach(() => vi.mocked(cudaAddon).mockReset())

  it.each([0, 2, SLICES - 1])('keeps the refusal of slice %i, and pins all others, one at a time', async (refused) => {
    const asked: number[] = []
    let atOnce = 0
    const memory = await registered(async (slice) => {
      asked.push(slice)
      expect(++atOnce).toBe(1)
      await new Promise((resolve) => setTimeout(resolve, 5))
      atOnce--
      return slice === refused ? `slice ${slice} refused` : undefined
    })
    expect(asked).toEqual([0, 1, 2, 3])
    expect([memory.locked, memory.lockError]).toEqual([false, `slice ${refused} refused`])
    memory.close()
  })

  it('closes the memory when it fails', async () => {
    const close = vi.spyOn((await import('./memory.ts')).CudaHostMemory.prototype, 'close')
    await expect(registered(() => Promise.reject(new Error('gone')))).rejects.toThrow('gone')
    expect(close).toHaveBeenCalledOnce()
    close.mockRestore()
  })
})
