import { open } from 'node:fs/promises'
import type { DType } from '@ckpt/contract'
import { readIndex } from '@ckpt/safetensors'

interface Weight {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly data: Buffer
}

/** A model's weights in this process's memory, as a trainer has them. */
export class Policy {
  readonly #weights: ReadonlyMap<string, Weight>
  #state: number

  private constructor(weights: ReadonlyMap<string, Weight>, seed: number) {
    this.#weights = weights
    this.#state = seed
  }

  static async read(directory: string, seed: number): Promise<Policy> {
    const weights = new Map<string, Weight>()
    for (const { file, dataStart, tensors } of (await readIndex(directory)).headers) {
      const handle = await open(file)
      try {
        for (const { name, dtype, shape, begin, end } of tensors) {
          const data = Buffer.alloc(end - begin)
          await handle.read(data, 0, data.length, dataStart + begin)
          weights.set(name, { name, dtype, shape, data })
        }
      } finally {
        await handle.close()
      }
    }
    return new Policy(weights, seed)
  }

  tensors(): Iterable<Weight> {
    return this.#weights.values()
  }

  /** Adds noise of the given strength to a BF16 tensor; the function it returns takes it back. */
  disturb(name: string, strength: number): () => void {
    const weight = this.#weights.get(name)
    if (weight?.dtype !== 'BF16') throw new Error(`${name} is no BF16 tensor of the model`)
    const before = Buffer.from(weight.data)
    for (let at = 0; at < weight.data.length; at += 2) {
      const value = bfloat16(weight.data.readUInt16LE(at)) + strength * this.#noise()
      weight.data.writeUInt16LE(toBfloat16(value), at)
    }
    return () => void before.copy(weight.data)
  }

  /** Roughly normal: the sum of three numbers of a linear congruential generator. */
  #noise(): number {
    let sum = 0
    for (let i = 0; i < 3; i++) {
      this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0
      sum += this.#state / 2 ** 31 - 1
    }
    return sum
  }
}

const word = new DataView(new ArrayBuffer(4))

function bfloat16(bits: number): number {
  word.setUint32(0, bits << 16)
  return word.getFloat32(0)
}

function toBfloat16(value: number): number {
  word.setFloat32(0, value)
  return word.getUint32(0) >>> 16
}
