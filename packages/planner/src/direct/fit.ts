import { DTYPES, type DType, type Manifest, type Recording } from '@ckpt/contract'

/** Position of a tensor of a manifest on its holder. */
export interface Holder {
  readonly rank: number
  readonly host: string
  readonly segment: number
  readonly offset: number
}

/** A tensor of a manifest with its holders. */
export interface Held {
  readonly bytes: number
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly holders: Holder[]
}

/** Returns all tensors of a manifest by name; ranks that hold the same one are in ascending order. */
export function heldTensors(manifest: Manifest): Map<string, Held> {
  const found = new Map<string, Held>()
  for (const { rank, host, tensors } of manifest.ranks) {
    for (let row = 0; row < tensors.count; row++) {
      const name = tensors.names.at(row)
      const holder = { rank, host, segment: tensors.segments[row]!, offset: tensors.offsets[row]! }
      const known = found.get(name)
      if (known) known.holders.push(holder)
      else {
        found.set(name, {
          bytes: tensors.bytes[row]!,
          dtype: DTYPES[tensors.dtypes[row]!]!,
          shape: tensors.shapes[tensors.shapeIds[row]!]!,
          holders: [holder],
        })
      }
    }
  }
  return found
}

/**
 * Returns the reason why an engine that was recorded with one checkpoint cannot receive a different one by its routes;
 * undefined if it can.
 */
export function recordingMismatch(held: ReadonlyMap<string, Held>, recording: Recording): string | undefined {
  for (const { name, dtype, shape } of recording.tensors) {
    const tensor = held.get(name)
    if (tensor === undefined) return `the checkpoint lacks tensor ${name}, which the recorded one had`
    if (tensor.dtype !== dtype || tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
      const came = `${tensor.dtype} [${tensor.shape.join(', ')}]`
      return `tensor ${name} is ${came}, the recorded one was ${dtype} [${shape.join(', ')}]`
    }
  }
  if (held.size === recording.tensors.length) return undefined
  const known = new Set(recording.tensors.map(({ name }) => name))
  for (const name of held.keys()) if (!known.has(name)) return `tensor ${name} was not in the recorded checkpoint`
  return `the checkpoint has ${held.size} tensors, the recorded one had ${recording.tensors.length}`
}
