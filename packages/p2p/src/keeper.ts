import type { KeptPlaces, Manifest, TensorMeta, TransferPlan } from '@ckpt/contract'
import { DEFAULT_SEGMENT_BYTES, type CheckpointStore, type Reservation } from '@ckpt/memory'
import { bucketTensors } from '@ckpt/planner'

/** Buckets begin on pages: what registers or copies them may want that. */
const PAGE = 4096

/** Memory in which the buckets that this rank pulls in an update stay, and their registration once the update has gone well. */
export class Keeper implements Disposable {
  readonly #store: CheckpointStore
  readonly #name: string
  #reservation: Reservation | undefined
  #tensors: readonly TensorMeta[] = []
  #digests: BigUint64Array | undefined

  constructor(store: CheckpointStore, name: string) {
    this.#store = store
    this.#name = name
  }

  /** Where each of these buckets goes. @throws CkptError `CHECKPOINT_EXISTS`, `OUT_OF_MEMORY`. */
  async place(plan: TransferPlan, manifest: Manifest, own: readonly number[]): Promise<KeptPlaces> {
    const segmentBytes: number[] = []
    const segment = new Uint32Array(own.length)
    const offset = new Float64Array(own.length)
    const tensors: TensorMeta[] = []
    const digests: bigint[] = []
    own.forEach((bucket, turn) => {
      const bytes = Math.ceil(plan.buckets.bytes[bucket]! / PAGE) * PAGE
      const last = segmentBytes.at(-1)
      if (last === undefined || last + bytes > DEFAULT_SEGMENT_BYTES) segmentBytes.push(0)
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
    this.#reservation = await this.#store.reserve(this.#name, segmentBytes)
    this.#tensors = tensors
    this.#digests = digests.length === tensors.length ? BigUint64Array.from(digests) : undefined
    return { memories: this.#reservation.segments, segment, offset }
  }

  /** The update has gone well: what was kept is a checkpoint of this rank from now on. */
  register(): void {
    this.#reservation?.register(this.#tensors, this.#digests)
  }

  /** Gives the memory back, unless it has been registered. */
  [Symbol.dispose](): void {
    this.#reservation?.release()
  }
}
