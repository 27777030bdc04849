import { STRIDED_COPY_COLUMNS, type Host, type HostMemory, type Recording } from '@ckpt/contract'
import { readsOf } from './rounds.ts'

/** What is put together at a time, where no single storage is larger. */
const SCRATCH_BYTES = 256 * 2 ** 20

/**
 * The digests that an engine worker's parameters must have after a direct update: their bytes are put together from host memory as
 * the routes say, without the device that they were written to. By index into the recording's parameters; those that the copies do
 * not write to the last byte are left out.
 *
 * @param memories what copies read, by their sources' index; undefined for memory of other hosts, which `read` brings.
 */
export async function expectedDigests(
  host: Host,
  memories: readonly (HostMemory | undefined)[],
  copies: Float64Array,
  recording: Recording,
  read: (reads: Float64Array, memory: HostMemory) => Promise<void> = () => Promise.resolve(),
): Promise<[number, bigint][]> {
  const byStorage = new Map<number, number[]>()
  const coverage = new Coverage(recording)
  for (let at = 0; at < copies.length; at += STRIDED_COPY_COLUMNS) {
    const [storage, offset, pitch, rowBytes, rows] = [3, 4, 5, 6, 7].map((column) => copies[at + column]!) as Five
    const list = byStorage.get(storage)
    if (list) list.push(at)
    else byStorage.set(storage, [at])
    if (coverage.inOne(storage, offset, offset + (rows - 1) * pitch + rowBytes))
      coverage.count(storage, offset, rows * rowBytes)
    else for (let row = 0; row < rows; row++) coverage.add(storage, offset + row * pitch, rowBytes)
  }
  const result: [number, bigint][] = []
  const near = memories.filter((memory) => memory !== undefined)
  const indexOf = memories.map((memory) => (memory === undefined ? -1 : near.indexOf(memory)))
  for (const batch of batches(recording.storages, [...byStorage.keys()])) {
    const end = batch.at(-1)!
    const scratch = await host.allocate({ bytes: Math.max(end.start + recording.storages[end.storage]!, 1), lock: false })
    try {
      const rows: number[] = []
      const reads: number[] = []
      const ranges: { memory: number; offset: number; bytes: number }[] = []
      const indices: number[] = []
      for (const { storage, start } of batch) {
        for (const at of byStorage.get(storage)!) {
          const row = copies.subarray(at, at + STRIDED_COPY_COLUMNS)
          const source = indexOf[row[0]!]!
          if (source < 0) {
            for (const value of readsOf(row, start + row[4]!, row[5]!)) reads.push(value)
            continue
          }
          rows.push(...row)
          const first = rows.length - STRIDED_COPY_COLUMNS
          rows[first] = source
          rows[first + 3] = near.length
          rows[first + 4]! += start
        }
        for (const index of coverage.whole(storage)) {
          const { offset, bytes } = recording.parameters[index]!
          ranges.push({ memory: 0, offset: start + offset, bytes })
          indices.push(index)
        }
      }
      await host.copy([...near, scratch], Float64Array.from(rows))
      if (reads.length > 0) await read(Float64Array.from(reads), scratch)
      const digests = await host.digest([scratch], ranges)
      indices.forEach((index, i) => result.push([index, digests[i]!]))
    } finally {
      scratch.close()
    }
  }
  return result
}

type Five = [number, number, number, number, number]

/** How many bytes of each parameter copies write; copies do not overlap. */
class Coverage {
  readonly #recording: Recording
  /** Indices of parameters by storage, ascending by offset. */
  readonly #order = new Map<number, number[]>()
  readonly #bytes: Float64Array

  constructor(recording: Recording) {
    this.#recording = recording
    this.#bytes = new Float64Array(recording.parameters.length)
    const indices = recording.parameters.map((_, index) => index)
    indices.sort((a, b) => recording.parameters[a]!.offset - recording.parameters[b]!.offset)
    for (const index of indices) {
      const { storage } = recording.parameters[index]!
      const list = this.#order.get(storage)
      if (list) list.push(index)
      else this.#order.set(storage, [index])
    }
  }

  inOne(storage: number, start: number, end: number): boolean {
    const list = this.#order.get(storage) ?? []
    const parameter = this.#recording.parameters[list[this.#at(list, start)] ?? -1]
    return parameter !== undefined && end <= parameter.offset + parameter.bytes
  }

  /** Rows with `bytes` in all that lie in the parameter at `start`. */
  count(storage: number, start: number, bytes: number): void {
    const list = this.#order.get(storage) ?? []
    this.#bytes[list[this.#at(list, start)]!]! += bytes
  }

  /** `bytes` from `start` on, across as many parameters as they reach. */
  add(storage: number, start: number, bytes: number): void {
    const list = this.#order.get(storage) ?? []
    const end = start + bytes
    for (let i = Math.max(0, this.#at(list, start)); i < list.length; i++) {
      const parameter = this.#recording.parameters[list[i]!]!
      if (parameter.offset >= end) break
      const common = Math.min(end, parameter.offset + parameter.bytes) - Math.max(start, parameter.offset)
      if (common > 0) this.#bytes[list[i]!]! += common
    }
  }

  whole(storage: number): number[] {
    return (this.#order.get(storage) ?? []).filter((index) => this.#bytes[index] === this.#recording.parameters[index]!.bytes)
  }

  /** The last parameter that begins at or before `offset`; -1 for none. */
  #at(list: readonly number[], offset: number): number {
    let low = 0
    let high = list.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#recording.parameters[list[middle]!]!.offset <= offset) low = middle + 1
      else high = middle
    }
    return low - 1
  }
}

/** Storages side by side, each at a multiple of 256 bytes. */
function* batches(sizes: readonly number[], storages: readonly number[]): Generator<{ storage: number; start: number }[]> {
  let batch: { storage: number; start: number }[] = []
  let end = 0
  for (const storage of storages) {
    if (batch.length > 0 && end + sizes[storage]! > SCRATCH_BYTES) {
      yield batch
      batch = []
      end = 0
    }
    batch.push({ storage, start: end })
    end = Math.ceil((end + sizes[storage]!) / 256) * 256
  }
  if (batch.length > 0) yield batch
}
