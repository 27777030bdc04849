import type { DType } from './dtype.ts'

/** Maps a range of a tensor to a range of an engine's parameters; offsets and strides in bytes. */
export interface Route {
  /** Index into the recording's tensors. */
  readonly tensor: number
  /** Index into the recording's storages. */
  readonly storage: number
  /** Offset from the start of the tensor. */
  readonly sourceOffset: number
  /** Offset from the start of the storage. */
  readonly destinationOffset: number
  /** Bytes that are contiguous on both sides. */
  readonly rowBytes: number
  /** Count, source stride and destination stride of each dimension over the rows, outermost first. */
  readonly dims: readonly number[]
}

/** A contiguous parameter that routes write completely. */
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
 * Copies that one engine worker's loader made during a recorded update (docs/direct.md). A tensor that is neither in a route
 * nor opaque is not needed by this worker.
 */
export interface Recording {
  /** Id that is new with every recording and every process. */
  readonly id: string
  readonly tensors: readonly { readonly name: string; readonly dtype: DType; readonly shape: readonly number[] }[]
  /** Sizes in bytes of the memories that hold parameters. */
  readonly storages: readonly number[]
  readonly parameters: readonly RoutedParameter[]
  readonly routes: readonly Route[]
  readonly opaque: readonly OpaqueTensor[]
  /** True if the loader was given tensors without data: no bytes have been compared yet. */
  readonly rehearsed?: boolean | undefined
}

/** Name, element type and shape of a tensor. */
export type TensorForm = Recording['tensors'][number]

/** Handle by which a rank maps a memory with an engine's parameters: shared memory, or CUDA device memory by IPC handle. */
export type StorageHandle =
  | {
      readonly kind: 'file'
      /** `/dev/shm/NAME`, or `/proc/PID/fd/N` of the worker's own process; nothing else is opened. */
      readonly path: string
      readonly offset: number
      readonly bytes: number
      /**
       * Identity of the object at the path, from the worker's own descriptor (`MemoryIdentity`); a handle without it is
       * refused.
       */
      readonly device?: string | undefined
      readonly inode?: string | undefined
      /** Size in bytes of the whole object. */
      readonly size?: number | undefined
    }
  | {
      readonly kind: 'cuda'
      /** 64 bytes that name a whole allocation, in which the storage begins at `offset`. */
      readonly handle: Uint8Array
      readonly offset: number
      readonly bytes: number
      readonly deviceUuid: string
    }
