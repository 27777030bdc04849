import { CkptError, type Recording } from '@ckpt/contract'
import { regionBytes, regionOf, type TensorRegion } from './region.ts'

/**
 * Parts of tensors that one rank's engine worker keeps, by its recording: it can sum the bytes of each region in its
 * parameters.
 */
export interface Reading {
  readonly rank: number
  /** Index of the tensor in {@link TensorList}, by route. */
  readonly tensors: readonly number[]
  /** By route. */
  readonly regions: readonly TensorRegion[]
  /** Tensors that the worker computes with: its parts of them cannot be read back. */
  readonly opaque: readonly number[]
}

/** The tensors of a checkpoint in an order on which all ranks agree. */
export interface TensorList {
  readonly names: readonly string[]
  readonly bytes: readonly number[]
}

/** Maximum dimensions of any tensor that torch can create. */
const MOST_DIMS = 64
/** Maximum number of copies of the same bytes that is accepted from a worker. */
const MOST_COPIES = 64

/** Encodes a recording as a reading, in a flat form for messages; equal recordings of equal lists give equal bytes. */
export function encodeReading(recording: Recording, list: TensorList): Uint8Array {
  const indices = new Map(list.names.map((name, index) => [name, index]))
  const of = (tensor: number) => indices.get(recording.tensors[tensor]!.name) ?? list.names.length
  const numbers: number[] = [recording.routes.length]
  for (const route of recording.routes) {
    const { offset, rowBytes, dims, unit } = regionOf(route)
    numbers.push(of(route.tensor), offset, rowBytes, unit, dims.length / 2, ...dims)
  }
  for (const { tensor } of recording.opaque) numbers.push(of(tensor))
  return new Uint8Array(Float64Array.from(numbers).buffer)
}

/**
 * Decodes the result of {@link encodeReading}.
 *
 * @throws CkptError `RENDEZVOUS_PROTOCOL` naming the rank and field: a tensor that is not in the list, a region that leaves its
 * tensor.
 */
export function decodeReading(rank: number, bytes: Uint8Array, list: TensorList): Reading {
  const refuse = (field: string, value: number): never => {
    const text = `rank ${rank} describes what its engine worker keeps with ${field} ${value}`
    throw new CkptError('RENDEZVOUS_PROTOCOL', text, { fields: { rank, field } })
  }
  if (bytes.byteLength % 8 !== 0) refuse('length', bytes.byteLength)
  // Copied, because bytes from the wire need not be aligned.
  const numbers = new Float64Array(Uint8Array.from(bytes).buffer)
  let at = 0
  const next = (field: string, least: number, most: number): number => {
    const value = numbers[at++] ?? NaN
    if (!Number.isSafeInteger(value) || value < least || value > most) refuse(field, value)
    return value
  }
  const tensor = () => next('tensor', 0, list.names.length - 1)
  const tensors: number[] = []
  const regions: TensorRegion[] = []
  for (let left = next('routes', 0, numbers.length); left > 0; left--) {
    const index = tensor()
    const size = list.bytes[index]!
    const offset = next('offset', 0, size)
    const rowBytes = next('rowBytes', 0, size - offset)
    const unit = next('unit', 1, 8)
    const dims = Array.from({ length: 2 * next('dims', 0, MOST_DIMS) }, () => next('dims', 0, Number.MAX_SAFE_INTEGER))
    const region = { offset, rowBytes, dims, unit }
    const end = endOf(region)
    if (!(end <= size)) refuse('dims', end)
    if (!(regionBytes(region) <= MOST_COPIES * size)) refuse('dims', regionBytes(region))
    if (![1, 2, 4, 8].includes(unit) || [offset, rowBytes, ...dims.filter((_, i) => i % 2 === 1)].some((n) => n % unit !== 0))
      refuse('unit', unit)
    tensors.push(index)
    regions.push(region)
  }
  const opaque: number[] = []
  while (at < numbers.length) opaque.push(tensor())
  return { rank, tensors, regions, opaque }
}

/** Returns the position after the last byte of a region. */
function endOf({ offset, rowBytes, dims }: TensorRegion): number {
  let end = offset + rowBytes
  for (let at = 0; at < dims.length; at += 2) end += Math.max(dims[at]! - 1, 0) * dims[at + 1]!
  return end
}
