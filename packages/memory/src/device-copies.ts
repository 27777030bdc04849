import { CkptError, type ContiguousCopy, type DeviceReader, type DeviceSource, type HostMemory } from '@ckpt/contract'
import type { Layout } from './layout.ts'
import type { TensorSpec } from './source.ts'

/** Copies tensors on GPUs to their places. @throws CkptError naming the tensor. */
export async function copyFromDevices(
  specs: readonly TensorSpec[],
  layout: Layout,
  segments: readonly HostMemory[],
  reader: DeviceReader,
  options: { readonly signal: AbortSignal; readonly onProgress: ((done: number, total: number) => void) | undefined },
): Promise<void> {
  const sources: DeviceSource[] = []
  const indexOf = new Map<string, number>()
  const reads: ContiguousCopy[] = []
  // Tensor names by the index of a read, and of the first read that needs a source.
  const readNames: string[] = []
  const sourceNames: string[] = []
  let before = 0
  for (const [i, { name, bytes, data }] of specs.entries()) {
    if (data.kind !== 'device') {
      if (data.kind !== 'bytes') before += bytes
      continue
    }
    if (bytes === 0) continue
    const key = sourceKey(data.source)
    let source = indexOf.get(key)
    if (source === undefined) {
      indexOf.set(key, (source = sources.push(data.source) - 1))
      sourceNames.push(name)
    }
    const { segment, offset } = layout.tensors[i]!
    reads.push({ source, sourceOffset: data.offset, destination: segment, destinationOffset: offset, bytes })
    readNames.push(name)
  }
  const { signal, onProgress } = options
  try {
    await reader.readDevice({
      sources,
      memories: segments,
      reads,
      signal,
      ...(onProgress && { onProgress: (bytes) => onProgress(before + bytes, layout.totalBytes) }),
    })
  } catch (error) {
    throw naming(error, readNames, sourceNames)
  }
}

function sourceKey(source: DeviceSource): string {
  return source.kind === 'pointer'
    ? `${source.deviceUuid} ${source.pointer} ${source.bytes}`
    : `${source.deviceUuid} ${Buffer.from(source.handle).toString('base64')}`
}

/** Adds the tensor's name to the error of a reader, which identifies reads and sources by number. */
function naming(error: unknown, readNames: readonly string[], sourceNames: readonly string[]): unknown {
  if (!CkptError.is(error)) return error
  const { read, source } = error.fields
  const tensor = typeof read === 'number' ? readNames[read] : typeof source === 'number' ? sourceNames[source] : undefined
  if (tensor === undefined) return error
  const named = new CkptError(error.code, `tensor ${JSON.stringify(tensor)}: ${error.message}`, { cause: error })
  return named.with({ tensor, ...error.fields })
}
