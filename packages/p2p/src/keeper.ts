import type { HostMemory, Manifest, ReservedMemory, TensorMeta, TransferPlan, UpdateContext } from '@ckpt/contract'
import { bucketTensors } from '@ckpt/planner'
import { alignUp } from '@ckpt/utils'

/** Largest segment, unless one bucket is larger: as checkpoints are cut that are registered from files. */
const SEGMENT_BYTES = 8 * 2 ** 30
/** Buckets begin on pages: what registers or copies them may want that. */
const PAGE = 4096

/** Where buckets that a receiver keeps lie, by their turn among those it pulls. */
export interface KeptPlaces {
  readonly memories: readonly HostMemory[]
  /** Index into `memories`. */
  readonly segment: Uint32Array
  readonly offset: Float64Array
}

/** Memory in which the buckets that this rank pulls in an update stay, and their registration once the update has gone well. */
export class Keeper {
  readonly #reserve: UpdateContext['reserve']
  #reservation: ReservedMemory | undefined
  #tensors: readonly TensorMeta[] = []
  #digests: BigUint64Array | undefined

  constructor(reserve: UpdateContext['reserve']) {
    this.#reserve = reserve
  }

  /** Where each of these buckets goes. @throws CkptError `CHECKPOINT_EXISTS`, `OUT_OF_MEMORY`. */
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

  /** The update has gone well: what was kept is a checkpoint of this rank from now on. */
  register(): void {
    this.#reservation?.register(this.#tensors, this.#digests)
  }

  /** Gives the memory back, unless it has been registered. */
  release(): void {
    this.#reservation?.release()
  }
}
