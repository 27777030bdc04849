import {
  CkptError,
  STRIDED_COPY_COLUMNS,
  tensorBytes,
  type Device,
  type DirectJob,
  type HostMemory,
  type Manifest,
  type MappedStorages,
  type ProcessName,
  type Recording,
  type WorkerStorage,
} from '@ckpt/contract'
import { planDirect, type DirectPlan, type RankDirectPlan } from '@ckpt/planner'
import type { Offered } from './offer.ts'
import { openSegment } from './peer-memory.ts'
import { LANDINGS, RemoteDirectJob } from './remote-job.ts'
import { RemoteReader, type RemoteAccess } from './remote-reader.ts'
import { cutRounds } from './rounds.ts'

/** What is read from other hosts at a time. */
const LANDING_BYTES = 256 * 2 ** 20

/** A direct update of one checkpoint into one set of engine workers, ready to run as often as wanted. */
export class PreparedDirect implements AsyncDisposable {
  readonly plan: DirectPlan
  readonly own: RankDirectPlan
  readonly recording: Recording
  readonly job: DirectJob
  /** Bytes that are read from other hosts. */
  readonly remoteBytes: number
  /** Bytes of the checkpoint's tensors, each once. */
  readonly checkpointBytes: number
  /** Engine workers whose memory is mapped. */
  readonly workers: readonly ProcessName[]
  readonly #storages: MappedStorages
  readonly #mapped: ReadonlyMap<string, HostMemory>

  private constructor(parts: {
    plan: DirectPlan
    own: RankDirectPlan
    recording: Recording
    job: DirectJob
    remoteBytes: number
    storages: MappedStorages
    mapped: ReadonlyMap<string, HostMemory>
    workers: readonly ProcessName[]
  }) {
    this.plan = parts.plan
    this.own = parts.own
    this.recording = parts.recording
    this.job = parts.job
    this.remoteBytes = parts.remoteBytes
    this.checkpointBytes = parts.recording.tensors.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0)
    this.#storages = parts.storages
    this.#mapped = parts.mapped
    this.workers = parts.workers
  }

  /**
   * Plans, maps what is needed of other processes, and prepares the copies. With `remote` bytes that are in memory of other hosts alone
   * are read from there.
   *
   * @throws CkptError `PLAN_INFEASIBLE`, `UNSUPPORTED`, or what mapping throws: the update can be staged instead.
   */
  static async make(
    device: Device,
    rank: number,
    manifest: Manifest,
    segments: readonly HostMemory[],
    offers: readonly Offered[],
    remote?: RemoteAccess,
  ): Promise<PreparedDirect> {
    const { direct } = device
    if (direct === undefined) throw new CkptError('UNSUPPORTED', `a ${device.kind} device cannot write into parameters`)
    const metas = manifest.ranks.find((one) => one.rank === rank)
    const near = offers.filter((offer) => manifest.ranks.some((one) => one.rank === offer.rank && one.host === metas?.host))
    const away = offers.filter((offer) => !near.includes(offer))
    const opaque = away.flatMap(({ recording }) => recording.opaque.map(({ tensor }) => recording.tensors[tensor]!.name))
    const forward = near.every((offer) => offer.reaches)
    const plan = planDirect(manifest, { ranks: near, forward, opaque, remote: remote !== undefined })
    const own = plan.ranks.get(rank)!
    const recording = near.find((offer) => offer.rank === rank)!.recording
    const opened = new Map<string, HostMemory>()
    const isNear = (holder: number) => near.some((offer) => offer.rank === holder)
    const readerOf = (sources: RankDirectPlan['sources']): RemoteReader | undefined =>
      remote && sources.some((source) => !isNear(source.rank)) ? new RemoteReader(remote, sources) : undefined
    /** By source; undefined for those of other hosts. */
    const memoriesOf = async (sources: RankDirectPlan['sources']): Promise<(HostMemory | undefined)[]> => {
      const memories: (HostMemory | undefined)[] = []
      for (const { rank: holder, segment } of sources) {
        if (!isNear(holder)) {
          memories.push(undefined)
          continue
        }
        if (holder === rank) {
          memories.push(segments[segment])
          continue
        }
        const key = `${holder}/${segment}`
        let memory = opened.get(key)
        if (memory === undefined) {
          const offer = near.find((one) => one.rank === holder)
          const opening = openSegment(direct, offer?.segments[segment], offer?.owner, `segment ${segment} of rank ${holder}`)
          opened.set(key, (memory = await opening))
        }
        memories.push(memory)
      }
      return memories
    }
    let storages: MappedStorages | undefined
    try {
      const memories = await memoriesOf(own.sources)
      const storageOf = (worker: number, index: number): WorkerStorage => {
        const { storages: handles, process } = near.find((offer) => offer.rank === worker)!
        return { handle: handles[index]!, process, what: `storage ${index} of rank ${worker}'s engine worker` }
      }
      const mine = recording.storages.map((_, index) => storageOf(rank, index))
      const others = own.targets.map((target) => storageOf(target.rank, target.storage))
      storages = await direct.map([...mine, ...others])
      const forwards = own.forwards.slice()
      for (let at = 0; at < forwards.length; at += 8) forwards[at + 3]! += mine.length
      const reader = readerOf(own.sources)
      if (reader) {
        const ranks = own.sources.flatMap((source) => (isNear(source.rank) ? [] : [source.rank]))
        await reader.connect(ranks, AbortSignal.timeout(remote!.timeoutMs)).catch(async (error: unknown) => {
          await reader.close()
          throw error
        })
      }
      const { job, remoteBytes } = await prepareJob(device, { memories, storages, copies: own.copies, forwards, reader })
      return new PreparedDirect({
        plan,
        own,
        recording,
        job,
        remoteBytes,
        storages,
        mapped: opened,
        workers: near.flatMap((offer) => offer.process ?? []),
      })
    } catch (error) {
      await storages?.close()
      for (const memory of opened.values()) memory.close()
      throw error
    }
  }

  /** @throws CkptError `MEMORY_CHANGED` naming the file, where memory of other ranks is not what was mapped any more. */
  assertIntact(): void {
    for (const memory of this.#mapped.values()) memory.assertIntact?.()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.job.close()
    await this.#storages.close()
    for (const memory of this.#mapped.values()) memory.close()
  }
}

/** Copies of which some read other hosts' memory, by `reader`, as one job. */
async function prepareJob(
  device: Device,
  given: {
    readonly memories: readonly (HostMemory | undefined)[]
    readonly storages: MappedStorages
    readonly copies: Float64Array
    readonly forwards: Float64Array
    readonly reader: RemoteReader | undefined
  },
): Promise<{ job: DirectJob; remoteBytes: number }> {
  const direct = device.direct!
  const { storages, forwards, reader } = given
  const near = given.memories.filter((memory) => memory !== undefined)
  if (reader === undefined) {
    return { job: await direct.prepare({ memories: near, storages, copies: given.copies, forwards }), remoteBytes: 0 }
  }
  const none = new Float64Array(0)
  const { local, rounds } = cutRounds(given.copies, (source) => given.memories[source] === undefined, LANDING_BYTES)
  for (let at = 0; at < local.length; at += STRIDED_COPY_COLUMNS) local[at] = near.indexOf(given.memories[local[at]!]!)
  const opened: { close(): unknown }[] = [reader]
  const kept = async <T extends { close(): unknown }>(making: Promise<T>): Promise<T> => {
    const made = await making
    opened.push(made)
    return made
  }
  try {
    const bytes = Math.max(...rounds.map((round) => round.bytes))
    const landings: HostMemory[] = []
    for (let i = 0; i < Math.min(LANDINGS, rounds.length); i++) landings.push(await kept(device.host.allocate({ bytes })))
    const parts = []
    for (const [turn, { reads, copies }] of rounds.entries()) {
      const memories = [landings[turn % LANDINGS]!]
      parts.push({ reads, job: await kept(direct.prepare({ memories, storages, copies, forwards: none })) })
    }
    const job = new RemoteDirectJob({
      local: await kept(direct.prepare({ memories: near, storages, copies: local, forwards: none })),
      rounds: parts,
      forwards: await kept(direct.prepare({ memories: [], storages, copies: none, forwards })),
      landings,
      reader,
    })
    return { job, remoteBytes: rounds.reduce((sum, round) => sum + round.bytes, 0) }
  } catch (error) {
    for (const one of opened.reverse()) await one.close()
    throw error
  }
}
