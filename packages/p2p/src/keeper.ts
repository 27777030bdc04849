import type { Manifest, ReservedMemory, TensorMeta, TransferPlan, UpdateContext } from '@ckpt/contract'
import { bucketTensors } from '@ckpt/planner'
import type { KeptPlaces } from '@ckpt/staging'
import { alignUp } from '@ckpt/utils'

/** Largest segment, unless one bucket is larger: the same size as for checkpoints registered from files. */
const SEGMENT_BYTES = 8 * 2 ** 30
/** Buckets begin at pages, which later registrations or copies may require. */
const PAGE = 4096

/** Memory for the buckets that this rank pulls and keeps in an update, and their registration once the update has succeeded. */
export class Keeper {
  readonly #reserve: UpdateContext['reserve']
  #reservation: ReservedMemory | undefined
  #tensors: readonly TensorMeta[] = []
  #digests: BigUint64Array | undefined

  constructor(reserve: UpdateContext['reserve']) {
    this.#reserve = reserve
  }

  /** Returns the position of each of these buckets. @throws CkptError `CHECKPOINT_EXISTS`, `OUT_OF_MEMORY`. */
  async place(plan: TransferPlan, manifest: Manifest, own: readonly number[]): Promise<KeptPlaces> {
    const segmentBytes: number[] = []
    const segment = new Uint32Array(own.length)
    const offset = new Float64Array(own.length)
    const tensors: TensorMeta[] = []
    const digests: bigint[] = []
    own.forEach((bucket, turn) => {
      const bytes = alignUp(plan.buckets.bytes[bucket]!, PAGE)
      const last = segmentBytes.at(-1)
      if (last === undefined || last + bytes > SEGMENT_BYTES) segmentBytes.push(0)
      const at = segmentBytes.length - 1
      segment[turn] = at
      offset[turn] = segmentBytes[at]!
      segmentBytes[at]! += bytes
      for (const tensor of bucketTensors(plan, manifest, bucket)) {
        const { name, dtype, shape, digest } = tensor
        const inBucket = tensor.offset - plan.buckets.ringOffset[bucket]!
        tensors.push({ name, dtype, shape, bytes: tensor.bytes, segment: at, offset: offset[turn] + inBucket })
        if (digest !== undefined) digests.push(digest)
      }
    })
    this.#reservation = await this.#reserve(segmentBytes)
    this.#tensors = tensors
    this.#digests = digests.length === tensors.length ? BigUint64Array.from(digests) : undefined
    return { memories: this.#reservation.segments, segment, offset }
  }

  /** Registers the kept bytes as a checkpoint of this rank, after a successful update. */
  register(): void {
    this.#reservation?.register(this.#tensors, this.#digests)
  }

  /** Releases the memory, unless it has been registered. */
  release(): void {
    this.#reservation?.release()
  }
}
