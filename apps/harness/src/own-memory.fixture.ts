import {
  CkptError,
  tensorAt,
  type Ring,
  type RingTensor,
  type TensorMeta,
  type UpdateAttempt,
  type UpdateContext,
  type UpdateOutcome,
  type UpdateStrategy,
  StridedCopies,
} from '@ckpt/contract'

/**
 * A strategy as a third party would add it, using only the contract: every rank holds the whole checkpoint, and moves it into
 * its own worker, one tensor after the other, through a ring of the size of the largest tensor.
 */
export function ownMemory(): UpdateStrategy {
  return { name: 'own-memory', begin: (context) => Promise.resolve(new OwnMemoryAttempt(context)) }
}

interface OwnTensor extends TensorMeta {
  readonly digest?: bigint
}

class OwnMemoryAttempt implements UpdateAttempt {
  readonly usesRing = true
  readonly #context: UpdateContext
  #tensors: readonly OwnTensor[] = []
  #ring: Ring | undefined
  #startedAt = 0
  #copyMs = 0
  #reloadMs = 0

  constructor(context: UpdateContext) {
    this.#context = context
  }

  plan(): Promise<void> {
    const { manifest, rank } = this.#context
    const own = manifest.ranks.find((one) => one.rank === rank)!.tensors
    this.#tensors = Array.from({ length: own.count }, (_, row) => {
      const digest = own.digests?.[row]
      return { ...tensorAt(own, row), ...(digest !== undefined && { digest }) }
    })
    const names = new Set(this.#tensors.map(({ name }) => name))
    for (const { tensors } of manifest.ranks) {
      for (let row = 0; row < tensors.count; row++) {
        const name = tensors.names.at(row)
        if (!names.has(name)) throw new CkptError('UNSUPPORTED', `rank ${rank} does not hold ${name}`, { fields: { rank } })
      }
    }
    return Promise.resolve()
  }

  async attach(): Promise<void> {
    const { ring, session, signal } = this.#context
    this.#ring = await ring.make(Math.max(...this.#tensors.map(({ bytes }) => bytes)))
    void session.attach(this.#ring.handle, { tensors: this.#tensors.length, bytes: this.#bytes }, signal)
  }

  async execute(): Promise<void> {
    const { device, segments, loading, onProgress } = this.#context
    const { memory, offset } = this.#ring!.place!
    this.#startedAt = performance.now()
    let loaded = 0
    for (const [bucket, tensor] of this.#tensors.entries()) {
      const { name, dtype, shape, bytes, segment, offset: at, digest } = tensor
      const whole = { sourcePitch: bytes, destinationPitch: bytes, rowBytes: bytes, rows: 1 }
      const copy = { source: 0, sourceOffset: at, destination: 1, destinationOffset: offset, ...whole }
      this.#copyMs += (await device.host.copy([segments[segment]!, memory], StridedCopies.from([copy]))).milliseconds
      const there: RingTensor = { name, dtype, shape, offset: 0, bytes, ...(digest !== undefined && { digest }) }
      this.#reloadMs += (await loading.load(bucket, [there])).reloadMs
      onProgress?.((loaded += bytes), this.#bytes)
    }
  }

  async release(): Promise<void> {
    await this.#context.session.release()
  }

  worker(): Promise<undefined> {
    return Promise.resolve(undefined)
  }

  staged(): undefined {
    return undefined
  }

  vote(): ReturnType<UpdateAttempt['vote']> {
    return { manifestDigest: this.#context.manifest.digest, tensors: this.#tensors.length, bytes: this.#bytes }
  }

  outcome(): UpdateOutcome {
    const ringBytes = this.#ring!.bytes
    return {
      strategy: 'own-memory',
      mode: 'serial',
      modeReason: 'one tensor at a time',
      bytes: this.#bytes,
      tensors: this.#tensors.length,
      buckets: this.#tensors.length,
      ringBytes,
      bucketBytes: ringBytes,
      h2dBytes: this.#bytes,
      broadcastBytes: 0,
      stages: { h2dMs: this.#copyMs, broadcastMs: 0, reloadMs: this.#reloadMs, idleMs: 0 },
      spans: [{ zero: this.#startedAt, rows: Float64Array.of(0, 0, 0, this.#copyMs) }],
    }
  }

  get #bytes(): number {
    return this.#tensors.reduce((sum, { bytes }) => sum + bytes, 0)
  }
}
