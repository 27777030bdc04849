import { cpus } from 'node:os'
import { type Host, type HostMemory, StridedCopies } from '@ckpt/contract'
import type { Ceilings } from '../result.ts'

const REPEAT = 5

/**
 * Measures a ceiling, one reading at a time. Other load on a shared machine moves ceilings by half, so each sample needs its
 * own reading.
 */
export interface CeilingProbe extends Disposable {
  /** Bytes per second. */
  read(): Promise<number>
}

/** Returns the best of several readings. */
async function best(probe: CeilingProbe, readings = REPEAT): Promise<number> {
  let highest = 0
  for (let i = 0; i < readings; i++) highest = Math.max(highest, await probe.read())
  return highest
}

/** Copies between two buffers that no cache holds, on all cores; a reading is the best of three copies. */
export async function copyProbe(host: Host, bytes = 512 * 2 ** 20): Promise<CeilingProbe> {
  const memories: HostMemory[] = []
  const close = () => memories.forEach((memory) => memory.close())
  try {
    for (let i = 0; i < 2; i++) memories.push(await host.allocate({ bytes, lock: false }))
    await host.fill(memories[0]!, { seed: 1n })
  } catch (error) {
    close()
    throw error
  }
  const whole = { sourcePitch: bytes, destinationPitch: bytes, rowBytes: bytes, rows: 1 }
  const copy = StridedCopies.from([{ source: 0, sourceOffset: 0, destination: 1, destinationOffset: 0, ...whole }])
  return {
    async read() {
      let milliseconds = Infinity
      for (let i = 0; i < 3; i++) {
        milliseconds = Math.min(milliseconds, (await host.copy(memories, copy, { threads: cpus().length })).milliseconds)
      }
      return (bytes / milliseconds) * 1000
    },
    [Symbol.dispose]: close,
  }
}

/** Reads warm files into memory that was written before, on all cores. */
export async function readProbe(host: Host, files: readonly { path: string; bytes: number }[]): Promise<CeilingProbe> {
  const total = files.reduce((sum, file) => sum + file.bytes, 0)
  const memory = await host.allocate({ bytes: total, lock: false })
  let offset = 0
  const reads = files.map(({ bytes }, source) => {
    const read = { source, sourceOffset: 0, destination: 0, destinationOffset: offset, bytes }
    offset += bytes
    return read
  })
  return {
    async read() {
      const { milliseconds } = await host.read({
        files: files.map(({ path }) => path),
        memories: [memory],
        reads,
        threads: cpus().length,
      })
      return (total / milliseconds) * 1000
    },
    [Symbol.dispose]: () => memory.close(),
  }
}

/** Returns the copy ceiling of this machine: the best of several readings. */
export async function copyCeiling(host: Host): Promise<number> {
  using probe = await copyProbe(host)
  return await best(probe)
}

/** Measures copy and read ceilings. */
export async function measureCeilings(host: Host, files: readonly { path: string; bytes: number }[]): Promise<Ceilings> {
  const copyBytesPerSecond = await copyCeiling(host)
  using probe = await readProbe(host, files)
  return { copyBytesPerSecond, readBytesPerSecond: await best(probe) }
}
