import { CkptError, isDType, shown } from '@ckpt/contract'
import type { CheckpointSource } from '@ckpt/core'
import type { Ask } from './messages.ts'
import type { Offer } from './schemas.ts'

/**
 * Returns the tensors of an offer as a source of a registration.
 *
 * @param ask lets the client write tensors that are in memory of its own
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the tensor and the field.
 */
export function offeredTensors({ memories, tensors }: Offer, ask: (ask: Ask) => Promise<void>): CheckpointSource {
  const places = memories.map((memory) => {
    if (memory.kind === 'client') return memory
    if (memory.kind === 'cuda') return { ...memory, handle: Buffer.from(memory.handle, 'base64') }
    const { name, bytes, device, inode } = memory
    const identity = device !== undefined && inode !== undefined ? { device, inode, bytes } : undefined
    return { ...memory, name, identity }
  })
  return {
    tensors: tensors.map(([name, dtype, shape, index, offset, bytes]) => {
      if (!isDType(dtype)) throw invalid(name, 'dtype', `unknown dtype ${shown(dtype)}`)
      const place = places[index]
      if (place === undefined) throw invalid(name, 'memory', `there is no memory ${index}`)
      if (offset + bytes > place.bytes) {
        throw invalid(name, 'offset', `bytes ${offset} to ${offset + bytes} are outside a memory of ${place.bytes} bytes`)
      }
      const data =
        place.kind === 'client'
          ? ({ fill: true } as const)
          : place.kind === 'cuda'
            ? { device: { handle: place.handle, offset }, uuid: place.deviceUuid }
            : { shared: place.name, offset, ...(place.identity && { identity: place.identity }) }
      return { name, dtype, shape, data }
    }),
    fill: (places) => ask({ what: 'fill', addresses: places.map(({ memory, offset }) => memory.address! + offset) }),
  }
}

function invalid(tensor: string, field: string, message: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `tensor ${shown(tensor)}: ${message}`, { fields: { tensor, field } })
}
