import { isDType, shown, type MemoryIdentity } from '@ckpt/contract'
import { tensorSpecs, type NamedTensorInput, type TensorSpec } from '../source.ts'
import { malformed, type TrainerMessage } from './session.ts'

/** Memory that a trainer shares: an allocation on a GPU, or POSIX shared memory. */
type TrainerMemory =
  | { readonly kind: 'cuda'; readonly handle: Uint8Array; readonly uuid: string; readonly bytes: number }
  | { readonly kind: 'shared'; readonly name: string; readonly bytes: number; readonly identity: MemoryIdentity | undefined }

/**
 * Returns the checked tensors of a trainer's description: dtypes, shapes, sizes, and that each is inside the memory it names.
 *
 * @throws CkptError `CHECKPOINT_MALFORMED` naming the socket, the field and, if there is one, the tensor.
 */
export function describedTensors(peer: string, message: TrainerMessage): TensorSpec[] {
  const { memories, tensors } = message
  if (!Array.isArray(memories)) throw malformed(peer, 'memories', 'memories is not a list')
  if (!Array.isArray(tensors)) throw malformed(peer, 'tensors', 'tensors is not a list')
  const places = memories.map((memory: unknown, index) => memoryOf(peer, memory, index))
  const announced: number[] = []
  const inputs = tensors.map((row: unknown, index): NamedTensorInput => {
    if (!Array.isArray(row) || row.length !== 6) throw malformed(peer, 'tensors', `row ${index} has not 6 columns`)
    const [name, dtype, shape, memory, offset, bytes] = row as unknown[]
    if (typeof name !== 'string') throw malformed(peer, 'name', `the name of row ${index} is not a string`)
    if (!isDType(dtype)) throw malformed(peer, 'dtype', `unknown dtype ${shown(dtype)}`, name)
    if (!isShape(shape)) throw malformed(peer, 'shape', `shape ${shown(shape)} is not a list of whole numbers`, name)
    const place = isWhole(memory) ? places[memory] : undefined
    if (place === undefined) throw malformed(peer, 'memory', `there is no memory ${shown(memory)}`, name)
    if (!isWhole(offset)) throw malformed(peer, 'offset', `offset ${shown(offset)} is not a whole number`, name)
    if (!isWhole(bytes)) throw malformed(peer, 'bytes', `bytes ${shown(bytes)} is not a whole number`, name)
    if (offset + bytes > place.bytes) {
      const text = `bytes ${offset} to ${offset + bytes} are outside a memory of ${place.bytes} bytes`
      throw malformed(peer, 'offset', text, name)
    }
    announced.push(bytes)
    const data =
      place.kind === 'cuda'
        ? { device: { handle: place.handle, offset }, uuid: place.uuid }
        : { shared: place.name, offset, ...(place.identity && { identity: place.identity }) }
    return { name, dtype, shape, data }
  })
  const specs = tensorSpecs(inputs)
  for (const [index, { name, bytes }] of specs.entries()) {
    if (bytes !== announced[index]) {
      throw malformed(peer, 'bytes', `${announced[index]} bytes, but dtype and shape require ${bytes}`, name)
    }
  }
  return specs
}

function memoryOf(peer: string, value: unknown, index: number): TrainerMemory {
  const memory = (typeof value === 'object' && value !== null ? value : {}) as Readonly<Record<string, unknown>>
  const { kind, name, handle, deviceUuid, bytes } = memory
  const refuse = (field: string) => malformed(peer, field, `memory ${index} has no usable ${field}`)
  if (!isWhole(bytes)) throw refuse('bytes')
  if (kind === 'shared') {
    if (typeof name !== 'string' || !/^[^/\0]+$/.test(name) || name === '.' || name === '..') throw refuse('name')
    return { kind, name, bytes, identity: identityOf(memory, bytes, refuse) }
  }
  if (kind !== 'cuda') throw refuse('kind')
  if (typeof handle !== 'string') throw refuse('handle')
  if (typeof deviceUuid !== 'string') throw refuse('deviceUuid')
  return { kind, handle: Buffer.from(handle, 'base64'), uuid: deviceUuid, bytes }
}

/** Identity of the shared memory; older trainers do not send it. */
function identityOf(
  { device, inode }: Readonly<Record<string, unknown>>,
  bytes: number,
  refuse: (field: string) => Error,
): MemoryIdentity | undefined {
  if (device === undefined && inode === undefined) return undefined
  const isDecimal = (value: unknown): value is string => typeof value === 'string' && /^\d{1,20}$/.test(value)
  if (!isDecimal(device)) throw refuse('device')
  if (!isDecimal(inode)) throw refuse('inode')
  return { device, inode, bytes }
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isShape(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(isWhole)
}
