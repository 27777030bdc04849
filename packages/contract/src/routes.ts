import type { DType } from './dtype.ts'

/** From where in a tensor to where in an engine's parameters; offsets and strides in bytes. */
export interface Route {
  /** Index into the recording's tensors. */
  readonly tensor: number
  /** Index into the recording's storages. */
  readonly storage: number
  /** From the start of the tensor. */
  readonly sourceOffset: number
  /** From the start of the storage. */
  readonly destinationOffset: number
  /** Bytes that lie together on both sides. */
  readonly rowBytes: number
  /** count, source stride and destination stride of each dimension over the rows, outermost first. */
  readonly dims: readonly number[]
}

/** A contiguous parameter that routes write to the last byte. */
export interface RoutedParameter {
  readonly name: string
  readonly storage: number
  readonly offset: number
  readonly bytes: number
}

/** A tensor that must come through the ring, because the engine computes with it. */
export interface OpaqueTensor {
  /** Index into the recording's tensors. */
  readonly tensor: number
  readonly reason: string
}

/**
 * What one engine worker's loader copies where, as it was seen during an update (docs/direct.md). A tensor that is neither in a route
 * nor opaque is not needed by this worker.
 */
export interface Recording {
  /** New with every recording and every process. */
  readonly id: string
  readonly tensors: readonly { readonly name: string; readonly dtype: DType; readonly shape: readonly number[] }[]
  /** Sizes in bytes of the memories that parameters lie in. */
  readonly storages: readonly number[]
  readonly parameters: readonly RoutedParameter[]
  readonly routes: readonly Route[]
  readonly opaque: readonly OpaqueTensor[]
}

/** How a rank gets at a memory that an engine's parameters lie in: shared memory that it maps, or CUDA device memory by IPC handle. */
export type StorageHandle =
  | {
      readonly kind: 'file'
      /** `/dev/shm/NAME`, or `/proc/PID/fd/N` of the worker's own process; nothing else is opened. */
      readonly path: string
      readonly offset: number
      readonly bytes: number
      /** What lies there, as the worker's own descriptor says (`MemoryIdentity`); a handle without is refused. */
      readonly device?: string | undefined
      readonly inode?: string | undefined
      /** Size in bytes of the whole object. */
      readonly size?: number | undefined
    }
  | {
      readonly kind: 'cuda'
      /** 64 bytes. It names a whole allocation, in which the storage begins at `offset`. */
      readonly handle: Uint8Array
      readonly offset: number
      readonly bytes: number
      readonly deviceUuid: string
    }
