import {
  STRIDED_COPY_COLUMNS,
  type Device,
  type DirectCopies,
  type DirectDevice,
  type DirectJob,
  type HostMemory,
} from '@ckpt/contract'
import { createHostDevice } from '@ckpt/transport'
import { Random } from '../random.ts'
import type { ArmedMutation } from './armed.ts'

/** The host device, with the faults in direct copies that it is told to have. */
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

/** The copies with one left out, or shifted by a word, where that is armed. */
function changed({ copies }: DirectCopies, armed: ArmedMutation): Float64Array {
  if (copies.length === 0) return copies
  const dropped = armed.take('copy left out')
  const shifted = dropped === undefined ? armed.take('copy shifted') : undefined
  if (dropped === undefined && shifted === undefined) return copies
  const random = new Random(dropped ?? shifted ?? 0)
  const result = copies.slice()
  const [SOURCE_OFFSET, ROW_BYTES, ROWS] = [1, 6, 7]
  const count = copies.length / STRIDED_COPY_COLUMNS
  const start = random.between(0, count - 1)
  const rows = Array.from({ length: count }, (_, i) => ((start + i) % count) * STRIDED_COPY_COLUMNS)
  if (dropped !== undefined) result[rows[0]! + ROWS] = 0
  else {
    // Towards the beginning of the memory, so that the copy stays inside: one that leaves it is refused for that.
    const row = rows.find((at) => result[at + SOURCE_OFFSET]! >= 8)
    if (row !== undefined) result[row + SOURCE_OFFSET]! -= 8
    else {
      result[rows[0]! + SOURCE_OFFSET]! += 8
      result[rows[0]! + ROW_BYTES]! -= 8
    }
  }
  return result
}

function withWrongByte(job: DirectJob, { storages, copies }: DirectCopies, armed: ArmedMutation): DirectJob {
  if (copies.length === 0) return job
  return {
    async run(signal) {
      const stats = await job.run(signal)
      const seed = armed.take('copy changed')
      if (seed === undefined) return stats
      const random = new Random(seed)
      const row = random.between(0, copies.length / STRIDED_COPY_COLUMNS - 1) * STRIDED_COPY_COLUMNS
      const [destination, offset, pitch, rowBytes, rows] = [3, 4, 5, 6, 7].map((column) => copies[row + column]!)
      const { places } = storages as unknown as { places: readonly { memory: HostMemory; offset: number }[] }
      const place = places[destination!]!
      const at = place.offset + offset! + random.between(0, rows! - 1) * pitch! + random.between(0, rowBytes! - 1)
      place.memory.view(at, 1)[0]! ^= random.between(1, 255)
      return stats
    },
    close: () => job.close(),
  }
}
