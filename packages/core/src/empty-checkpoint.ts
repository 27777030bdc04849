import type { Lease } from '@ckpt/memory'

/** Tensor table of a rank that holds none. */
export const EMPTY_TABLE = {
  count: 0,
  names: {
    length: 0,
    at: () => {
      throw new RangeError('no tensors')
    },
  },
  dtypes: new Uint8Array(0),
  shapeIds: new Uint32Array(0),
  shapes: [],
  segments: new Uint32Array(0),
  offsets: new Float64Array(0),
  bytes: new Float64Array(0),
}

/** Lease of a rank that holds nothing. */
export const NO_LEASE: Pick<Lease, 'segments'> & Disposable = { segments: [], [Symbol.dispose]: () => undefined }
