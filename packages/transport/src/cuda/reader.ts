import { CkptError, ContiguousCopies, type DeviceReadRequest, type DeviceSource, type TransferStats } from '@ckpt/contract'
import type { CudaDeviceHandle, CudaSourceHandle } from '@ckpt/native-cuda'
import { onAbort } from '@ckpt/utils'
import { native } from '../addon.ts'
import { cudaAddon, probeCuda } from './addon.ts'
import { cudaMemory, type CudaHostMemory } from './memory.ts'

interface OpenDevice {
  readonly uuid: string
  readonly handle: CudaDeviceHandle
}

interface OpenSource {
  readonly deviceUuid: string
  readonly handle: CudaSourceHandle
  readonly bytes: number
}

/**
 * Copies device memory to pinned host memory, all GPUs at once, each over its own link. `own` is the reading device; memory of
 * a different GPU is read by that GPU, which is used only for that time.
 */
export async function readDeviceMemory(own: OpenDevice, request: DeviceReadRequest): Promise<TransferStats> {
  const { sources, memories, signal, onProgress } = request
  throwIfAborted(signal)
  const devices: OpenDevice[] = [own]
  const opened: OpenSource[] = []
  const used: CudaHostMemory[] = []
  const addon = cudaAddon()
  const cancellation = addon.newCancellation()
  const stopListening = onAbort(signal, () => addon.cancel(cancellation))
  try {
    for (const uuid of new Set(sources.map((source) => source.deviceUuid))) {
      if (uuid !== own.uuid) devices.push(await openOther(uuid, sources))
    }
    for (const [index, source] of sources.entries()) opened.push(await openSource(devices, source, index))
    throwIfAborted(signal)
    const registrations = memories.map(cudaMemory).map((memory) => {
      const registration = memory.use()
      used.push(memory)
      return registration
    })
    const done = new Map<string, number>()
    const parts = devices.map(({ uuid, handle }) => ({ uuid, handle, copies: copiesFrom(uuid, opened, request) }))
    const started = performance.now()
    const results = await Promise.allSettled(
      parts.map(({ uuid, handle, copies }) => {
        const report = (bytes: number): void => {
          done.set(uuid, bytes)
          onProgress?.([...done.values()].reduce((sum, part) => sum + part, 0))
        }
        const handles = opened.map((source) => source.handle)
        return copies.count === 0
          ? Promise.resolve(0)
          : native(() => addon.readDevice(handle, handles, registrations, copies.columns, cancellation, onProgress && report))
      }),
    )
    const failed = results.find((result) => result.status === 'rejected')
    if (failed) throw failed.reason
    const bytes = results.reduce((sum, result) => sum + (result.status === 'fulfilled' ? result.value : 0), 0)
    return { bytes, milliseconds: performance.now() - started }
  } catch (error) {
    throwIfAborted(signal)
    throw error
  } finally {
    stopListening()
    for (const memory of used) memory.done()
    await Promise.all(opened.map(({ handle }) => native(() => addon.closeSource(handle))))
    await Promise.all(devices.slice(1).map(({ handle }) => native(() => addon.closeDevice(handle))))
  }
}

async function openOther(uuid: string, sources: readonly DeviceSource[]): Promise<OpenDevice> {
  const { devices } = await probeCuda()
  const info = devices.find((device) => device.uuid === uuid)
  if (info !== undefined) return { uuid, handle: await native(() => cudaAddon().openDevice(info.index)) }
  const seen = devices.map((device) => device.uuid).join(', ')
  throw new CkptError('INVALID_ARGUMENT', `the memory is on ${uuid}, but this process sees only ${seen}`, {
    fields: { field: 'deviceUuid', source: sources.findIndex((source) => source.deviceUuid === uuid) },
  })
}

async function openSource(devices: readonly OpenDevice[], source: DeviceSource, index: number): Promise<OpenSource> {
  const { deviceUuid } = source
  const device = devices.find(({ uuid }) => uuid === deviceUuid)!
  try {
    if (source.kind === 'pointer') {
      const handle = await native(() => cudaAddon().ownSource(device.handle, source.pointer, source.bytes))
      return { deviceUuid, handle, bytes: source.bytes }
    }
    const handle = Buffer.from(source.handle.buffer, source.handle.byteOffset, source.handle.byteLength)
    const mapped = await native(() => cudaAddon().openForeign(device.handle, handle))
    return { deviceUuid, handle: mapped.source, bytes: mapped.bytes }
  } catch (error) {
    throw CkptError.from(error, 'NATIVE_FAILURE').with({ source: index })
  }
}

/**
 * Returns the reads of one GPU's memory in the addon's form. @throws CkptError `INVALID_ARGUMENT` for one outside its memory.
 */
function copiesFrom(uuid: string, sources: readonly OpenSource[], request: DeviceReadRequest): ContiguousCopies {
  const copies = request.reads.filter(({ source, sourceOffset, bytes }, index) => {
    const from = sources[source]
    if (from !== undefined && from.deviceUuid !== uuid) return false
    if (from === undefined || sourceOffset + bytes > from.bytes) {
      const text = `bytes ${sourceOffset} to ${sourceOffset + bytes} are outside device memory of ${from?.bytes ?? 0} bytes`
      throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'offset', read: index } })
    }
    return true
  })
  return ContiguousCopies.from(copies)
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw CkptError.from(signal.reason, 'ABORTED', 'reading device memory was aborted')
}
