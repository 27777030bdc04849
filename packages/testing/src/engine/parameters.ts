import { randomBytes, randomUUID } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import {
  CkptError,
  type Host,
  type HostMemory,
  type Recording,
  type RingTensor,
  type StorageHandle,
  StridedCopies,
  type StridedCopy,
} from '@ckpt/contract'
import { readHeader } from '@ckpt/safetensors'
import { engineLayout, type Layout, type LayoutTensor, type Placement } from '@ckpt/models'
import { parameterSums } from '@ckpt/planner'
import { Random } from '../random.ts'
import type { ArmedMutation } from '../mutations/armed.ts'
import { recordingOf } from './recording.ts'

const ALIGNMENT = 256

export interface Verification {
  readonly verified: boolean
  readonly parameters: number
  /** Bytes compared. */
  readonly bytes: number
  /** Tensors whose bytes differ from the files'. */
  readonly mismatches: readonly string[]
}

/** Returns the prefix of names of a process's parameters in shared memory. */
export function parametersPrefix(pid: number): string {
  return `ckpt-engine-${pid}-`
}

/** The parameters of one engine worker: TP slices of fused tensors, in one range of host memory. */
export class Parameters {
  readonly #host: Host
  readonly #memory: HostMemory
  readonly #layout: Layout
  readonly #offsets: ReadonlyMap<string, number>
  readonly #threads: number
  readonly #sums: Float64Array
  #recording: Recording

  private constructor(
    host: Host,
    memory: HostMemory,
    layout: Layout,
    offsets: ReadonlyMap<string, number>,
    threads: number,
    recording: Recording,
  ) {
    this.#recording = recording
    this.#sums = parameterSums(recording)
    this.#host = host
    this.#memory = memory
    this.#layout = layout
    this.#offsets = offsets
    this.#threads = threads
  }

  /** Allocates the parameters that worker `tpRank` of `tpSize` keeps of `tensors`. */
  static async allocate(
    host: Host,
    tensors: Iterable<LayoutTensor>,
    options: { tpRank: number; tpSize: number; threads: number },
  ): Promise<Parameters> {
    const list = [...tensors]
    const layout = engineLayout(list, options.tpRank, options.tpSize)
    const offsets = new Map<string, number>()
    let end = 0
    for (const [name, bytes] of layout.parameters) {
      offsets.set(name, end)
      end = Math.ceil((end + bytes) / ALIGNMENT) * ALIGNMENT
    }
    const bytes = Math.max(end, ALIGNMENT)
    const memory = await host.createShared(`${parametersPrefix(process.pid)}${randomBytes(6).toString('hex')}`, {
      bytes,
      lock: false,
      hugePages: true,
    })
    const recording = recordingOf(randomUUID(), list, layout, offsets, bytes)
    return new Parameters(host, memory, layout, offsets, options.threads, recording)
  }

  /** Copies that `load` makes. */
  get recording(): Recording {
    return this.#recording
  }

  /** Creates a new recording with the same contents, after an update was recorded. */
  renewRecording(): void {
    this.#recording = { ...this.#recording, id: randomUUID() }
  }

  get bytes(): number {
    return this.#memory.bytes
  }

  /** Handles by which a rank maps the parameters. */
  get storages(): readonly StorageHandle[] {
    const { bytes, name } = this.#memory
    const { device, inode, bytes: size } = this.#memory.identity!
    return [{ kind: 'file', path: `/dev/shm/${name}`, offset: 0, bytes, device, inode, size }]
  }

  /** Returns sums of the bytes of each route of the recording, read from the parameters. */
  sums(): Promise<BigUint64Array> {
    return this.#host.sums([this.#memory], this.#sums, this.recording.routes.length, { threads: this.#threads })
  }

  /** Copies this worker's slices of `tensors`, which start at `ringOffset` in `ring`. */
  async load(ring: HostMemory, ringOffset: number, tensors: readonly RingTensor[], mutation?: ArmedMutation): Promise<void> {
    const copies: StridedCopy[] = []
    for (const tensor of tensors) {
      const { parameter, sourceOffset, sourcePitch, destinationOffset, destinationPitch, rowBytes, rows } = this.#placement(
        tensor.name,
      )
      if (rowBytes === 0) continue
      copies.push({
        source: 0,
        sourceOffset: ringOffset + tensor.offset + sourceOffset,
        sourcePitch,
        destination: 1,
        destinationOffset: this.#offsets.get(parameter)! + destinationOffset,
        destinationPitch,
        rowBytes,
        rows,
      })
    }
    if (mutation && copies.length > 0) mutate(copies, mutation)
    await this.#host.copy([ring, this.#memory], StridedCopies.from(copies), { threads: this.#threads })
  }

  /**
   * Returns a random byte of a tensor that `load` copies, as an offset from the ring's data; none if it copies nothing of it.
   */
  readPlace({ name, offset }: RingTensor, random: Random): number[] {
    const { rowBytes, rows, sourceOffset, sourcePitch } = this.#placement(name)
    if (rowBytes === 0) return []
    return [offset + sourceOffset + random.between(0, rows - 1) * sourcePitch + random.between(0, rowBytes - 1)]
  }

  /** Changes a written byte. */
  flip(seed: number): void {
    const random = new Random(seed)
    const { destinationOffset, rowBytes, dims } = random.pick(this.recording.routes)
    let place = destinationOffset + random.between(0, rowBytes - 1)
    for (let at = 0; at < dims.length; at += 3) place += random.between(0, dims[at]! - 1) * dims[at + 2]!
    this.#memory.view(place, 1)[0]! ^= random.between(1, 255)
  }

  #placement(tensor: string): Placement {
    const placement = this.#layout.placements.get(tensor)
    if (placement) return placement
    throw new CkptError('INVALID_ARGUMENT', `the engine has no parameter for tensor ${tensor}`, { fields: { tensor } })
  }

  /** Returns the 64-bit digest of each parameter's bytes. */
  async digests(): Promise<Map<string, bigint>> {
    const names = [...this.#layout.parameters.keys()]
    const ranges = names.map((name) => ({
      memory: 0,
      offset: this.#offsets.get(name)!,
      bytes: this.#layout.parameters.get(name)!,
    }))
    const digests = await this.#host.digest([this.#memory], ranges)
    return new Map(names.map((name, index) => [name, digests[index]!]))
  }

  /** Overwrites everything, so that no later check can pass on bytes of an earlier update. */
  async poison(): Promise<void> {
    await this.#host.fill(this.#memory, { seed: BigInt(Math.floor(Math.random() * 2 ** 48)) })
  }

  /**
   * Compares every byte of every parameter with the files, using plain file reads and comparison in JavaScript: of the path
   * under test only the layout is used.
   */
  async verify(files: readonly string[]): Promise<Verification> {
    const missing = new Set(this.#layout.placements.keys())
    const mismatches: string[] = []
    let bytes = 0
    let scratch = Buffer.alloc(0)
    for (const file of files) {
      const header = await readHeader(file)
      const fd = openSync(file, 'r')
      try {
        for (const tensor of header.tensors) {
          missing.delete(tensor.name)
          const length = tensor.end - tensor.begin
          if (scratch.length < length) scratch = Buffer.allocUnsafeSlow(length)
          readFully(fd, scratch, length, header.dataStart + tensor.begin, file)
          const placement = this.#placement(tensor.name)
          if (!this.#equals(placement, scratch)) mismatches.push(tensor.name)
          bytes += placement.rows * placement.rowBytes
        }
      } finally {
        closeSync(fd)
      }
    }
    mismatches.push(...missing)
    return { verified: mismatches.length === 0, parameters: this.#layout.parameters.size, bytes, mismatches }
  }

  #equals(placement: Placement, tensor: Buffer): boolean {
    const base = this.#offsets.get(placement.parameter)! + placement.destinationOffset
    if (placement.rowBytes === 0) return true
    const kept = this.#memory.view(base, placement.rows * placement.rowBytes)
    for (let row = 0; row < placement.rows; row++) {
      const from = placement.sourceOffset + row * placement.sourcePitch
      const at = row * placement.rowBytes
      if (tensor.compare(kept, at, at + placement.rowBytes, from, from + placement.rowBytes) !== 0) return false
    }
    return true
  }

  close(): void {
    this.#memory.unlink()
    this.#memory.close()
  }
}

/** Leaves out one of the copies, or shifts its source, if this fault is set. */
function mutate(copies: StridedCopy[], mutation: ArmedMutation): void {
  const dropped = mutation.take('load left out')
  const shifted = mutation.take('load shifted')
  const seed = dropped ?? shifted
  if (seed === undefined) return
  const row = new Random(seed).between(0, copies.length - 1)
  const copy = copies[row]!
  copies[row] = dropped !== undefined ? { ...copy, rows: 0 } : { ...copy, sourceOffset: copy.sourceOffset - 8 }
}

function readFully(fd: number, into: Buffer, bytes: number, position: number, file: string): void {
  let done = 0
  while (done < bytes) {
    const read = readSync(fd, into, done, bytes - done, position + done)
    if (read === 0) throw new CkptError('CHECKPOINT_UNREADABLE', `${file} ends early`, { fields: { file } })
    done += read
  }
}
