import {
  CkptError,
  StridedCopies,
  tensorBytes,
  type Device,
  type DirectDevice,
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

/** Bytes read from other hosts at a time. */
const LANDING_BYTES = 256 * 2 ** 20

/** Inputs for preparing a direct update. */
export interface PrepareOptions {
  readonly device: Device
  readonly rank: number
  /** Manifest in which ranks have one host if they share its memory. */
  readonly manifest: Manifest
  readonly segments: readonly HostMemory[]
  /** Offers of all participating ranks. */
  readonly offers: readonly Offered[]
  /** If set, bytes that are only in memory of other hosts are read from there. */
  readonly remote?: RemoteAccess | undefined
  /** Ends connecting to ranks of other hosts. */
  readonly signal: AbortSignal
}

/** A direct update of one checkpoint into one set of engine workers, ready to run any number of times. */
export class PreparedDirect implements AsyncDisposable {
  readonly plan: DirectPlan
  readonly own: RankDirectPlan
  readonly recording: Recording
  readonly job: DirectJob
  /** Bytes read from other hosts. */
  readonly remoteBytes: number
  /** Bytes of the checkpoint's tensors, each counted once. */
  readonly checkpointBytes: number
  /** Engine workers whose memory is mapped. */
  readonly workers: readonly ProcessName[]
  readonly #storages: MappedStorages
  readonly #memories: NearMemories

  private constructor(parts: {
    plan: DirectPlan
    own: RankDirectPlan
    recording: Recording
    job: DirectJob
    remoteBytes: number
    storages: MappedStorages
    memories: NearMemories
    workers: readonly ProcessName[]
  }) {
    this.plan = parts.plan
    this.own = parts.own
    this.recording = parts.recording
    this.job = parts.job
    this.remoteBytes = parts.remoteBytes
    this.checkpointBytes = parts.recording.tensors.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0)
    this.#storages = parts.storages
    this.#memories = parts.memories
    this.workers = parts.workers
  }

  /**
   * Plans, maps the necessary memory of other processes, and prepares the copies.
   *
   * @throws CkptError `PLAN_INFEASIBLE`, `UNSUPPORTED`, or the errors of mapping: the update can be staged instead.
   */
  static async make(options: PrepareOptions): Promise<PreparedDirect> {
    const { device, rank, manifest, offers, remote, signal } = options
    if (device.direct === undefined) {
      throw new CkptError('UNSUPPORTED', `a ${device.kind} device cannot write into parameters`)
    }
    const host = manifest.ranks.find((one) => one.rank === rank)?.host
    const near = offers.filter((offer) => manifest.ranks.some((one) => one.rank === offer.rank && one.host === host))
    const plan = planNear(manifest, near, offers, remote !== undefined)
    const own = plan.ranks.get(rank)!
    const { recording } = near.find((offer) => offer.rank === rank)!
    const memories = new NearMemories(device.direct, near, rank, options.segments)
    let storages: MappedStorages | undefined
    try {
      const sources: (HostMemory | undefined)[] = []
      for (const source of own.sources) sources.push(await memories.open(source))
      storages = await device.direct.map(storagesOf(near, rank, recording, own))
      // Storages of other workers come after those of the own worker.
      const first = recording.storages.length
      const forwards = own.forwards.map((copy) => ({ ...copy, destination: first + copy.destination }))
      const reader = remote && (await connectRemote(remote, own.sources, sources, signal))
      const job = await prepareJob(device, { memories: sources, storages, copies: own.copies, forwards, reader })
      const workers = near.flatMap((offer) => offer.process ?? [])
      return new PreparedDirect({ plan, own, recording, ...job, storages, memories, workers })
    } catch (error) {
      await storages?.close()
      memories.close()
      throw error
    }
  }

  /** @throws CkptError `MEMORY_CHANGED` naming the file, if memory of other ranks differs from what was mapped. */
  assertIntact(): void {
    this.#memories.assertIntact()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.job.close()
    await this.#storages.close()
    this.#memories.close()
  }
}

/** Plans for the ranks of one host; tensors that workers of other hosts cannot copy are staged everywhere. */
function planNear(manifest: Manifest, near: readonly Offered[], offers: readonly Offered[], remote: boolean): DirectPlan {
  const away = offers.filter((offer) => !near.includes(offer))
  const opaque = away.flatMap(({ recording }) => recording.opaque.map(({ tensor }) => recording.tensors[tensor]!.name))
  return planDirect(manifest, { ranks: near, forward: near.every((offer) => offer.reaches), opaque, remote })
}

/** Maps the memories of this host's ranks. */
class NearMemories {
  readonly #direct: DirectDevice
  readonly #near: readonly Offered[]
  readonly #rank: number
  readonly #segments: readonly HostMemory[]
  /** Memories of other ranks, by rank and segment. */
  readonly #mapped = new Map<string, HostMemory>()

  constructor(direct: DirectDevice, near: readonly Offered[], rank: number, segments: readonly HostMemory[]) {
    this.#direct = direct
    this.#near = near
    this.#rank = rank
    this.#segments = segments
  }

  /** Undefined for memory of other hosts. */
  async open({ rank, segment }: RankDirectPlan['sources'][number]): Promise<HostMemory | undefined> {
    if (rank === this.#rank) return this.#segments[segment]
    const offer = this.#near.find((one) => one.rank === rank)
    if (offer === undefined) return undefined
    const key = `${rank}/${segment}`
    let memory = this.#mapped.get(key)
    if (memory === undefined) {
      memory = await openSegment(this.#direct, offer.segments[segment], offer.owner, `segment ${segment} of rank ${rank}`)
      this.#mapped.set(key, memory)
    }
    return memory
  }

  assertIntact(): void {
    for (const memory of this.#mapped.values()) memory.assertIntact?.()
  }

  close(): void {
    for (const memory of this.#mapped.values()) memory.close()
  }
}

/** Returns the own worker's storages, then those of other workers that are written to. */
function storagesOf(
  near: readonly Offered[],
  rank: number,
  recording: Recording,
  { targets }: Pick<RankDirectPlan, 'targets'>,
): WorkerStorage[] {
  const storageOf = (worker: number, index: number): WorkerStorage => {
    const { storages: handles, process } = near.find((offer) => offer.rank === worker)!
    return { handle: handles[index]!, process, what: `storage ${index} of rank ${worker}'s engine worker` }
  }
  return [
    ...recording.storages.map((_, index) => storageOf(rank, index)),
    ...targets.map((target) => storageOf(target.rank, target.storage)),
  ]
}

/** Returns a connected reader for bytes that are in no memory of this host; undefined if there are none. */
async function connectRemote(
  remote: RemoteAccess,
  sources: RankDirectPlan['sources'],
  memories: readonly (HostMemory | undefined)[],
  signal: AbortSignal,
): Promise<RemoteReader | undefined> {
  const ranks = sources.flatMap(({ rank }, index) => (memories[index] === undefined ? [rank] : []))
  if (ranks.length === 0) return undefined
  const reader = new RemoteReader(remote, sources)
  try {
    await reader.connect(ranks, AbortSignal.any([signal, AbortSignal.timeout(remote.timeoutMs)]))
    return reader
  } catch (error) {
    await reader.close()
    throw error
  }
}

/** Prepares copies, some of which read other hosts' memory through `reader`, as one job. */
async function prepareJob(
  device: Device,
  given: {
    readonly memories: readonly (HostMemory | undefined)[]
    readonly storages: MappedStorages
    readonly copies: StridedCopies
    readonly forwards: StridedCopies
    readonly reader: RemoteReader | undefined
  },
): Promise<{ job: DirectJob; remoteBytes: number }> {
  const direct = device.direct!
  const { storages, forwards, reader } = given
  const near = given.memories.filter((memory) => memory !== undefined)
  if (reader === undefined) {
    return { job: await direct.prepare({ memories: near, storages, copies: given.copies, forwards }), remoteBytes: 0 }
  }
  const none = StridedCopies.from([])
  const cut = cutRounds(given.copies, (source) => given.memories[source] === undefined, LANDING_BYTES)
  const { rounds } = cut
  const local = cut.local.map((copy) => ({ ...copy, source: near.indexOf(given.memories[copy.source]!) }))
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
