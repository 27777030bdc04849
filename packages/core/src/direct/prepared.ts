import {
  CkptError,
  tensorBytes,
  type Device,
  type DirectJob,
  type HostMemory,
  type Manifest,
  type MappedStorages,
  type Recording,
} from '@ckpt/contract'
import { planDirect, type DirectPlan, type RankDirectPlan } from '@ckpt/planner'
import type { WorkerProcess } from '../update/session.ts'
import { expectedDigests } from './expected.ts'
import type { Offered } from './offer.ts'
import { assertUnchanged } from './unchanged.ts'

/** Copies of all that a worker needs. */
interface Whole {
  readonly memories: readonly HostMemory[]
  readonly copies: Float64Array
}

/** A direct update of one checkpoint into one set of engine workers, ready to run as often as wanted. */
export class PreparedDirect implements AsyncDisposable {
  readonly plan: DirectPlan
  readonly own: RankDirectPlan
  readonly recording: Recording
  readonly job: DirectJob
  /** Bytes of the checkpoint's tensors, each once. */
  readonly checkpointBytes: number
  /** Engine workers whose memory is mapped. */
  readonly workers: readonly WorkerProcess[]
  readonly #device: Device
  readonly #storages: MappedStorages
  readonly #mapped: ReadonlyMap<string, HostMemory>
  readonly #whole: () => Promise<Whole>
  readonly #assertUnchanged: () => Promise<void>
  #digests: Promise<[number, bigint][]> | undefined

  private constructor(
    device: Device,
    parts: {
      plan: DirectPlan
      own: RankDirectPlan
      recording: Recording
      job: DirectJob
      storages: MappedStorages
      mapped: ReadonlyMap<string, HostMemory>
      workers: readonly WorkerProcess[]
      whole: () => Promise<Whole>
      assertUnchanged: () => Promise<void>
    },
  ) {
    this.#device = device
    this.plan = parts.plan
    this.own = parts.own
    this.recording = parts.recording
    this.job = parts.job
    this.checkpointBytes = parts.recording.tensors.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0)
    this.#storages = parts.storages
    this.#mapped = parts.mapped
    this.workers = parts.workers
    this.#whole = parts.whole
    this.#assertUnchanged = parts.assertUnchanged
  }

  /**
   * Plans, maps what is needed of other processes, and prepares the copies.
   *
   * @throws CkptError `PLAN_INFEASIBLE`, `UNSUPPORTED`, or what mapping throws: the update can be staged instead.
   */
  static async make(
    device: Device,
    rank: number,
    manifest: Manifest,
    segments: readonly HostMemory[],
    offers: readonly Offered[],
  ): Promise<PreparedDirect> {
    const { direct } = device
    if (direct === undefined) throw new CkptError('UNSUPPORTED', `a ${device.kind} device cannot write into parameters`)
    const metas = manifest.ranks.find((one) => one.rank === rank)
    const near = offers.filter((offer) => manifest.ranks.some((one) => one.rank === offer.rank && one.host === metas?.host))
    const away = offers.filter((offer) => !near.includes(offer))
    const opaque = away.flatMap(({ recording }) => recording.opaque.map(({ tensor }) => recording.tensors[tensor]!.name))
    const forward = near.every((offer) => offer.reaches)
    const plan = planDirect(manifest, { ranks: near, forward, opaque })
    const own = plan.ranks.get(rank)!
    const recording = near.find((offer) => offer.rank === rank)!.recording
    const opened = new Map<string, HostMemory>()
    const memoriesOf = async (sources: RankDirectPlan['sources']): Promise<HostMemory[]> => {
      const memories: HostMemory[] = []
      for (const { rank: holder, segment } of sources) {
        if (holder === rank) {
          memories.push(segments[segment]!)
          continue
        }
        const path = near.find((offer) => offer.rank === holder)?.segments[segment]?.path ?? null
        if (path === null) {
          const text = `rank ${holder} holds its part in memory that rank ${rank} cannot map: register files in place, or create it with shareMemory`
          throw new CkptError('UNSUPPORTED', text, { fields: { rank: holder } })
        }
        let memory = opened.get(path)
        if (memory === undefined) opened.set(path, (memory = await direct.mapMemory(path)))
        memories.push(memory)
      }
      return memories
    }
    let storages: MappedStorages | undefined
    try {
      const memories = await memoriesOf(own.sources)
      const mine = near.find((offer) => offer.rank === rank)!.storages
      const others = own.targets.map((target) => near.find((offer) => offer.rank === target.rank)!.storages[target.storage]!)
      storages = await direct.map([...mine, ...others])
      const forwards = own.forwards.slice()
      for (let at = 0; at < forwards.length; at += 8) forwards[at + 3]! += mine.length
      const job = await direct.prepare({ memories, storages, copies: own.copies, forwards })
      // For digests: all that the worker needs, as if nobody handed anything on.
      const whole = async (): Promise<Whole> => {
        const alone = planDirect(manifest, { ranks: near, forward: false, opaque }).ranks.get(rank)!
        return { memories: await memoriesOf(alone.sources), copies: alone.copies }
      }
      return new PreparedDirect(device, {
        plan,
        own,
        recording,
        job,
        storages,
        mapped: opened,
        workers: near.flatMap((offer) => offer.process ?? []),
        whole,
        assertUnchanged: () => (metas ? assertUnchanged(device.host, segments, metas) : Promise.resolve()),
      })
    } catch (error) {
      await storages?.close()
      for (const memory of opened.values()) memory.close()
      throw error
    }
  }

  /**
   * What the worker's parameters must hold afterwards; computed once.
   *
   * @throws CkptError `DIGEST_MISMATCH` naming the tensor where what this rank registered in place has been changed since.
   */
  digests(): Promise<[number, bigint][]> {
    this.#digests ??= this.#expected()
    return this.#digests
  }

  async #expected(): Promise<[number, bigint][]> {
    await this.#assertUnchanged()
    const { memories, copies } = await this.#whole()
    return expectedDigests(this.#device.host, memories, copies, this.recording)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#digests?.catch(() => undefined)
    await this.job.close()
    await this.#storages.close()
    for (const memory of this.#mapped.values()) memory.close()
  }
}
