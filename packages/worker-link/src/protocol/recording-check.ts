import { tensorBytes, type Recording, type StorageHandle } from '@ckpt/contract'

/**
 * Maximum number of rows into which one route is divided, and of all of a recording's together: more would take longer than any
 * loader.
 */
const ROUTE_ROWS = 2 ** 26
const RECORDING_ROWS = 2 ** 28

/**
 * Checks the fields of a recording against each other: indices, and that routes and parameters stay inside tensors and
 * storages. A recording comes from a different process, and copies are made from it.
 *
 * @returns the problem, naming the field; undefined if all is well
 */
export function checkRecording({ tensors, storages, parameters, routes, opaque }: Recording): string | undefined {
  const sizes = tensors.map(({ dtype, shape }) => sizeOf(dtype, shape))
  const unsized = sizes.findIndex((size) => size === undefined)
  if (unsized >= 0) return `tensors.${unsized}: ${tensors[unsized]!.shape.join(' x ')} elements are more than can be counted`
  const lost = opaque.findIndex(({ tensor }) => tensor >= tensors.length)
  if (lost >= 0) return `opaque.${lost}: there is no tensor ${opaque[lost]!.tensor}`
  for (const [index, { storage, offset, bytes }] of parameters.entries()) {
    const size = storages[storage]
    if (size === undefined) return `parameters.${index}: there is no storage ${storage}`
    if (offset + bytes > size) return `parameters.${index}: it ends at ${offset + bytes}, but its storage at ${size}`
  }
  let all = 0
  for (const [index, { tensor, storage, sourceOffset, destinationOffset, rowBytes, dims }] of routes.entries()) {
    const source = sizes[tensor]
    const size = storages[storage]
    if (source === undefined) return `routes.${index}: there is no tensor ${tensor}`
    if (size === undefined) return `routes.${index}: there is no storage ${storage}`
    if (dims.length % 3 !== 0) return `routes.${index}: dims has ${dims.length} numbers, not three per dimension`
    let rows = 1
    let from = sourceOffset + rowBytes
    let to = destinationOffset + rowBytes
    for (let at = 0; at < dims.length; at += 3) {
      const count = dims[at]!
      if (count === 0) return `routes.${index}: a dimension without rows`
      rows *= count
      from += (count - 1) * dims[at + 1]!
      to += (count - 1) * dims[at + 2]!
    }
    if (from > source) return `routes.${index}: it reads up to byte ${from} of a tensor of ${source} bytes`
    if (to > size) return `routes.${index}: it writes up to byte ${to} of a storage of ${size} bytes`
    all += rows
    if (rows > ROUTE_ROWS || all > RECORDING_ROWS) return `routes.${index}: more rows than are copied one by one`
  }
  return undefined
}

/** Checks that there is a handle for each of a recording's storages, as large as the storage. @returns the problem */
export function checkStorages({ storages }: Recording, handles: readonly StorageHandle[]): string | undefined {
  if (handles.length !== storages.length)
    return `${handles.length} storages are shared, but the recording has ${storages.length}`
  const small = handles.findIndex(({ bytes }, index) => bytes < storages[index]!)
  return small < 0
    ? undefined
    : `storages.${small}: it has ${handles[small]!.bytes} bytes, but the recording has ${storages[small]!}`
}

function sizeOf(dtype: Recording['tensors'][number]['dtype'], shape: readonly number[]): number | undefined {
  try {
    const bytes = tensorBytes(dtype, shape)
    return Number.isSafeInteger(bytes) ? bytes : undefined
  } catch {
    return undefined
  }
}
