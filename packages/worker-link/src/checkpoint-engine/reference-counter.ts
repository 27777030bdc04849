import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readlinkSync, rmSync, writeSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import type { ReferenceCounter } from './payloads.ts'

/**
 * torch keeps the receivers' reference counts of a sent CUDA tensor in shared memory (torch/csrc/CudaIPCTypes.h,
 * aten/src/ATen/MapAllocator.h): 64 bytes whose first word counts the processes that have the file mapped, then 10,000 counters
 * of 8 bytes. A receiver maps the file when it has released the tensor and decrements its counter.
 */
const HEADER_BYTES = 64
const COUNTERS = 10_000
const FILE_BYTES = HEADER_BYTES + 8 * COUNTERS

/** One counter, set to 1, in a file that only the user may open. */
export class CounterFile implements ReferenceCounter {
  readonly name: string
  readonly index = 0
  readonly #path: string
  readonly #onExit = () => rmSync(this.#path, { force: true })

  /** @throws CkptError `NATIVE_FAILURE` if /dev/shm cannot be written. */
  constructor() {
    // Named like rings, so that files of killed processes are found and removed together with them.
    const file = `ckpt-${process.pid}-${pidNamespace()}-${randomBytes(8).toString('hex')}`
    this.name = `/${file}`
    this.#path = `/dev/shm/${file}`
    const content = Buffer.alloc(FILE_BYTES)
    content.writeInt32LE(1, 0) // this process: the last receiver must not remove the file
    content.writeBigInt64LE(1n, HEADER_BYTES)
    try {
      const descriptor = openSync(this.#path, 'wx', 0o600)
      try {
        writeSync(descriptor, content)
      } finally {
        closeSync(descriptor)
      }
    } catch (error) {
      throw CkptError.from(error, 'NATIVE_FAILURE', `cannot create ${this.#path}`)
    }
    process.on('exit', this.#onExit)
  }

  close(): void {
    process.off('exit', this.#onExit)
    this.#onExit()
  }
}

function pidNamespace(): string {
  try {
    return /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? '0'
  } catch {
    return '0'
  }
}
