import type { Device, DirectCopies, DirectDevice, DirectJob, HostMemory, StridedCopies } from '@ckpt/contract'
import { createHostDevice } from '@ckpt/transport'
import { Random } from '../random.ts'
import type { ArmedMutation } from './armed.ts'

/** Returns the host device, with configurable faults in direct copies. */
export async function mutableHostDevice(rank: number, armed: ArmedMutation): Promise<Device> {
  const device = await createHostDevice({ rank })
  const direct = device.direct!
  const mutable: DirectDevice = {
    how: direct.how,
    reaches: (uuids) => direct.reaches(uuids),
    map: (...args) => direct.map(...args),
    mapMemory: (...args) => direct.mapMemory(...args),
    async prepare(copies) {
      const job = await direct.prepare({ ...copies, copies: changed(copies, armed) })
      return withWrongByte(job, copies, armed)
    },
  }
  return new Proxy(device, {
    get(target, property) {
      if (property === 'direct') return mutable
      const value: unknown = Reflect.get(target, property, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

/** Returns the copies with one left out, or shifted by a word, if this fault is set. */
function changed({ copies }: DirectCopies, armed: ArmedMutation): StridedCopies {
  const { count } = copies
  if (count === 0) return copies
  const dropped = armed.take('copy left out')
  const shifted = dropped === undefined ? armed.take('copy shifted') : undefined
  if (dropped === undefined && shifted === undefined) return copies
  const start = new Random(dropped ?? shifted ?? 0).between(0, count - 1)
  // Towards the beginning of the memory, so that the copy stays inside: one that leaves it is refused for that reason.
  const later = Array.from({ length: count }, (_, i) => (start + i) % count).find((at) => copies.at(at).sourceOffset >= 8)
  const chosen = dropped !== undefined ? start : (later ?? start)
  return copies.map((copy, index) => {
    if (index !== chosen) return copy
    if (dropped !== undefined) return { ...copy, rows: 0 }
    if (later !== undefined) return { ...copy, sourceOffset: copy.sourceOffset - 8 }
    return { ...copy, sourceOffset: copy.sourceOffset + 8, rowBytes: copy.rowBytes - 8 }
  })
}

function withWrongByte(job: DirectJob, { storages, copies }: DirectCopies, armed: ArmedMutation): DirectJob {
  if (copies.count === 0) return job
  return {
    async run(signal) {
      const stats = await job.run(signal)
      const seed = armed.take('copy changed')
      if (seed === undefined) return stats
      const random = new Random(seed)
      const { destination, destinationOffset, destinationPitch, rowBytes, rows } = copies.at(
        random.between(0, copies.count - 1),
      )
      const { places } = storages as unknown as { places: readonly { memory: HostMemory; offset: number }[] }
      const place = places[destination]!
      const at =
        place.offset + destinationOffset + random.between(0, rows - 1) * destinationPitch + random.between(0, rowBytes - 1)
      place.memory.view(at, 1)[0]! ^= random.between(1, 255)
      return stats
    },
    close: () => job.close(),
  }
}
