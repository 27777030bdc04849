import { CkptError, DTYPE_BITS, type DType, type RingHandle, type RingTensor } from '@ckpt/contract'
import { PythonCall, PythonDict, PythonGlobal, PythonTuple, pickle } from './pickle.ts'

/** Name of each dtype's element type in the `torch` module; dtypes without one are sent as packed bytes (`uint8`). */
const TORCH_DTYPES: Readonly<Partial<Record<DType, string>>> = {
  BOOL: 'bool',
  U8: 'uint8',
  I8: 'int8',
  F8_E5M2: 'float8_e5m2',
  F8_E4M3: 'float8_e4m3fn',
  F8_E8M0: 'float8_e8m0fnu',
  F8_E4M3FNUZ: 'float8_e4m3fnuz',
  F8_E5M2FNUZ: 'float8_e5m2fnuz',
  I16: 'int16',
  U16: 'uint16',
  F16: 'float16',
  BF16: 'bfloat16',
  I32: 'int32',
  U32: 'uint32',
  F32: 'float32',
  C64: 'complex64',
  F64: 'float64',
  I64: 'int64',
  U64: 'uint64',
}

const REBUILD = new PythonGlobal('torch.multiprocessing.reductions', 'rebuild_cuda_tensor')
const TENSOR = new PythonGlobal('torch', 'Tensor')
const TYPED_STORAGE = new PythonGlobal('torch.storage', 'TypedStorage')
const SIZE = new PythonGlobal('torch', 'Size')
const RUNTIME_ERROR = new PythonGlobal('builtins', 'RuntimeError')
const UINT8 = new PythonGlobal('torch', 'uint8')
/** Bytes of a CUDA IPC handle of a memory allocation or an event (`CUDA_IPC_HANDLE_SIZE`). */
const IPC_HANDLE_BYTES = 64

/** Counter that a worker decrements when it has released the ring: a file in shared memory, and an index into its counters. */
export interface ReferenceCounter {
  /** Name for `shm_open`, with its leading slash. */
  readonly name: string
  readonly index: number
}

/**
 * Data from which the worker rebuilds its view of the ring: `(callable, args)` as torch's `reduce_tensor` returns them for a
 * uint8 CUDA tensor. The memory handle is sent without torch's version prefix, which every torch accepts in any version. No
 * event has to be waited for, because a bucket is announced only when its bytes are in the ring.
 *
 * @throws CkptError `UNSUPPORTED` for a ring that is not in CUDA memory: the stock worker supports nothing else.
 */
export function ringPayload(ring: RingHandle, counter: ReferenceCounter): Buffer {
  if (ring.kind !== 'cuda') {
    const text = `checkpoint-engine's worker protocol needs a ring in CUDA memory, but this one is ${ring.kind}`
    throw new CkptError('UNSUPPORTED', text, { fields: { field: 'ring' } })
  }
  if (ring.handle.length !== IPC_HANDLE_BYTES) {
    throw new CkptError('INVALID_ARGUMENT', `a CUDA IPC handle of ${ring.handle.length} bytes`, { fields: { field: 'handle' } })
  }
  const args = [
    TENSOR,
    new PythonCall(SIZE, [new PythonTuple([ring.bytes])]),
    new PythonTuple([1]), // stride
    0, // offset of the tensor in its storage
    TYPED_STORAGE,
    UINT8,
    0, // device index: the worker replaces it with its own
    ring.handle,
    ring.bytes,
    ring.offset,
    false, // requires_grad
    Buffer.from(counter.name),
    counter.index,
    Buffer.alloc(IPC_HANDLE_BYTES),
    false, // true to wait for the event
  ]
  return pickle(new PythonTuple([REBUILD, new PythonTuple(args)]))
}

/** A bucket's tensors, as checkpoint-engine's `FlattenedTensorMetadata`. */
export function bucketPayload(tensors: readonly RingTensor[]): Buffer {
  return pickle(
    tensors.map(({ name, dtype, shape, offset, bytes }) => {
      const torch = TORCH_DTYPES[dtype]
      const dimensions = torch === undefined ? packedShape(dtype, shape, bytes) : shape
      return new PythonDict([
        ['name', name],
        ['dtype', torch === undefined ? UINT8 : new PythonGlobal('torch', torch)],
        ['shape', new PythonCall(SIZE, [new PythonTuple(dimensions)])],
        ['offset', offset],
      ])
    }),
  )
}

/** Ends a phase: the first releases the ring, the second runs the worker's post hook. */
export function donePayload(): Buffer {
  return pickle(null)
}

/** Makes the worker raise a `RuntimeError`. */
export function abortPayload(reason: string): Buffer {
  return pickle(new PythonCall(RUNTIME_ERROR, [reason.replaceAll(/\p{Surrogate}/gu, '\ufffd')]))
}

/**
 * Returns the shape of the uint8 tensor that represents a dtype without a torch element type: the last dimension counts bytes.
 */
function packedShape(dtype: DType, shape: readonly number[], bytes: number): readonly number[] {
  const rowBits = (shape.at(-1) ?? 1) * DTYPE_BITS[dtype]
  return shape.length === 0 || rowBits % 8 !== 0 ? [bytes] : [...shape.slice(0, -1), rowBits / 8]
}
