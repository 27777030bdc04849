import {
  CkptError,
  isDType,
  shown,
  tensorBytes,
  type DeviceSource,
  type DType,
  type HostMemory,
  type MemoryIdentity,
} from '@ckpt/contract'

/** `CUipcMemHandle` of cuda.h. */
const IPC_HANDLE_BYTES = 64

/** Location of a tensor's bytes: JavaScript's memory, host memory, POSIX shared memory by name, or a GPU's memory. */
export type TensorData =
  | ArrayBufferView
  | ArrayBufferLike
  | { readonly memory: HostMemory; readonly offset?: number }
  /** `shared` is a name in /dev/shm, without the leading slash; `identity` is its owner's description of it. */
  | { readonly shared: string; readonly offset?: number; readonly identity?: MemoryIdentity }
  /** GPU memory of a different process: the CUDA IPC handle (64 bytes) of its allocation, and the tensor's offset in it. */
  | { readonly device: { readonly handle: Uint8Array; readonly offset?: number }; readonly uuid: string }
  /** Written by the source's `fill`. */
  | { readonly fill: true }
  /** GPU memory of this process. Work that writes it must have finished, and it must stay unchanged until it is registered. */
  | { readonly devicePointer: bigint; readonly uuid: string }

/** A tensor to register from memory. */
export interface TensorInput {
  readonly dtype: DType
  readonly shape: readonly number[]
  /** Exactly the tensor's bytes, little-endian and contiguous; starting at `offset` in a larger memory. */
  readonly data: TensorData
}

export interface NamedTensorInput extends TensorInput {
  readonly name: string
}

/** Memory for a tensor, which `fill` writes. */
export interface Place {
  readonly memory: HostMemory
  readonly offset: number
  readonly bytes: number
}

/**
 * Writes the tensors whose data is `{ fill: true }`, in their order. The memory stays until the promise settles, even if the
 * registration is aborted.
 */
export type Fill = (places: readonly Place[], signal: AbortSignal) => Promise<void>

/** Source of a registered checkpoint. */
export type CheckpointSource =
  /**
   * Safetensors files that together hold the checkpoint. With `root`, relative paths start there, and a file outside it, with
   * links resolved, is refused, even if links or directories change meanwhile.
   */
  | { readonly files: readonly string[]; readonly root?: string }
  /** A directory with safetensors files, an index or a single file (see `readIndex` of `@ckpt/safetensors`). */
  | { readonly directory: string }
  | { readonly tensors: Readonly<Record<string, TensorInput>> | Iterable<NamedTensorInput>; readonly fill?: Fill }
  /**
   * Unix socket of a Python trainer that serves its tensors (docs/trainers.md). `timeoutMs` is its longest time to answer
   * (default 60,000).
   */
  | { readonly trainer: string; readonly timeoutMs?: number }

/** A tensor with its checked size and the source of its bytes. */
export interface TensorSpec {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly bytes: number
  readonly data:
    | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
    | { readonly kind: 'memory'; readonly memory: HostMemory; readonly offset: number }
    | { readonly kind: 'shared'; readonly name: string; readonly offset: number; readonly identity?: MemoryIdentity }
    | { readonly kind: 'fill' }
    | { readonly kind: 'device'; readonly source: DeviceSource; readonly offset: number }
}

/**
 * Checks named tensors: names, shapes and the sizes that JavaScript can see.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the tensor and field.
 */
export function tensorSpecs(tensors: Readonly<Record<string, TensorInput>> | Iterable<NamedTensorInput>): TensorSpec[] {
  const inputs: Iterable<NamedTensorInput> = isIterable(tensors)
    ? tensors
    : Object.entries(tensors).map(([name, tensor]) => ({ ...tensor, name }))
  const names = new Set<string>()
  return Array.from(inputs, ({ name, dtype, shape, data }) => {
    if (typeof name !== 'string') throw invalid(shown(name), 'name', 'the name is not a string')
    if (names.has(name)) throw invalid(name, 'name', 'the name appears twice')
    names.add(name)
    if (!isDType(dtype)) throw invalid(name, 'dtype', `unknown dtype ${shown(dtype)}`)
    if (!isList(shape)) throw invalid(name, 'shape', `shape ${shown(shape)} is not a list of whole numbers`)
    if (shape.some((dimension) => !Number.isSafeInteger(dimension) || dimension < 0)) {
      throw invalid(name, 'shape', `shape [${shape.slice(0, 70).map(shown).join(', ')}] is not a list of whole numbers`)
    }
    const given: unknown = data
    if (typeof given !== 'object' || given === null) throw invalid(name, 'data', `${shown(data)} is no data`)
    const bytes = tensorBytes(dtype, shape)
    return { name, dtype, shape: [...shape], bytes, data: dataOf(name, data, bytes) }
  })
}

function dataOf(name: string, data: TensorData, bytes: number): TensorSpec['data'] {
  if (ArrayBuffer.isView(data) || data instanceof ArrayBuffer || data instanceof SharedArrayBuffer) {
    if (data.byteLength !== bytes) {
      throw invalid(name, 'data', `the data holds ${data.byteLength} bytes, but dtype and shape require ${bytes}`)
    }
    const view = ArrayBuffer.isView(data)
      ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
      : new Uint8Array(data as ArrayBuffer)
    return { kind: 'bytes', bytes: view }
  }
  if ('fill' in data) return { kind: 'fill' }
  if ('devicePointer' in data) {
    const { devicePointer: pointer, uuid: deviceUuid } = data
    if (pointer <= 0n && bytes > 0) throw invalid(name, 'devicePointer', `${pointer} is not a device pointer`)
    return { kind: 'device', source: { kind: 'pointer', pointer, bytes, deviceUuid }, offset: 0 }
  }
  const offset = ('device' in data ? data.device.offset : data.offset) ?? 0
  if (!Number.isSafeInteger(offset) || offset < 0) throw invalid(name, 'offset', `offset ${offset} is not a whole number`)
  if ('device' in data) {
    const { handle } = data.device
    if (handle.byteLength !== IPC_HANDLE_BYTES) {
      throw invalid(name, 'handle', `a CUDA IPC handle has ${IPC_HANDLE_BYTES} bytes, not ${handle.byteLength}`)
    }
    return { kind: 'device', source: { kind: 'ipc', handle, deviceUuid: data.uuid }, offset }
  }
  if ('shared' in data) {
    return { kind: 'shared', name: data.shared, offset, ...(data.identity && { identity: data.identity }) }
  }
  checkRange(name, data.memory, offset, bytes)
  return { kind: 'memory', memory: data.memory, offset }
}

/** @throws CkptError `INVALID_ARGUMENT` if the tensor's bytes are not inside `memory`. */
export function checkRange(name: string, memory: HostMemory, offset: number, bytes: number): void {
  if (offset + bytes <= memory.bytes) return
  throw invalid(name, 'data', `bytes ${offset} to ${offset + bytes} are outside a memory of ${memory.bytes} bytes`)
}

/** Returns true for an array; unlike `Array.isArray` it keeps the element type. */
function isList(value: readonly number[]): boolean {
  return Array.isArray(value)
}

function isIterable(value: object): value is Iterable<NamedTensorInput> {
  return Symbol.iterator in value
}

function invalid(tensor: string, field: string, message: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `tensor ${shown(tensor)}: ${message}`, { fields: { tensor, field } })
}
