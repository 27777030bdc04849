import { createHash } from 'node:crypto'
import {
  CkptError,
  OLDEST_RECORDING_PROTOCOL,
  type Blob,
  type HostMemory,
  type Kept,
  type Manifest,
  type Recording,
  type RecordingSession,
  type UpdateContext,
} from '@ckpt/contract'
import { heldTensors } from '@ckpt/planner'
import { Recordings } from '@ckpt/staging'
import { checkStorages, processMark, watchProcess } from '@ckpt/worker-link'
import type { DirectAnnouncement } from './announcement.ts'
import { layoutKey } from './layout-key.ts'
import { decodeOffer, encodeOffer, type Offer, type Offered } from './offer.ts'
import { offerSegment } from './peer-memory.ts'
import { PreparedDirect } from './prepared.ts'
import type { RemoteAccess } from './remote-reader.ts'
import { chooseKinds, chooseLayer, countUpdate, isChecked, nameRecordings, type DirectCount } from './spot-check.ts'

/** Either everything is ready, or the reason to stage the update, with the decision to record it. */
export type Decision = Direct | Staged

export interface Direct {
  readonly prepared: PreparedDirect
  /** Number of direct updates with this one. */
  readonly count: DirectCount
  readonly check?: SpotCheck
}

export interface Staged {
  readonly reason: string
  readonly record: boolean
  /** True if the engine was recorded already. */
  readonly recorded: boolean
  /** Id of the recording by which the own worker can copy the staged bytes. */
  readonly replay?: string
  /** Number of updates that the own worker has replayed, with this one. */
  readonly replays?: DirectCount
  readonly check?: SpotCheck
}

/** Reason why an update could not be prepared. */
interface Problem {
  readonly reason: string
  /** True if the checkpoint differs in kind from the recorded one. */
  readonly mismatch: boolean
  /** True if it follows from layout, memory and workers alone, so that it holds as long as these are the same. */
  readonly lasting: boolean
}

/** Announced before the key of an update that could not be prepared. */
const IMPOSSIBLE = 'impossible '

/** Tensors that an update compares with the engine's own loader. */
export interface SpotCheck {
  readonly layer: string
  readonly tensors: readonly string[]
}

/** Inputs of the decision besides the update's context. */
export interface DecisionInputs {
  /** Each rank's announcement at the beginning of the update. */
  readonly announced: readonly DirectAnnouncement[]
  /** Interval of updates between checks of a layer. */
  readonly checkEvery: number
}

/** This rank's offer, with its recording if that is usable. */
interface OwnOffer {
  readonly blob: Blob
  readonly recording?: Recording
}

const ELSEWHERE = 'the checkpoint is in memory of ranks of another run, from which it is pulled'

const OWN_MARK = processMark()
/** Process whose descriptors the other ranks open. */
const OWN_PROCESS = OWN_MARK === undefined ? undefined : { pid: process.pid, mark: OWN_MARK }

/** State of direct updates on one rank: its offer, and the last prepared update. */
export class DirectState implements Kept {
  #own: { readonly key: string; readonly offer: OwnOffer } | undefined
  readonly #offers = new Map<string, Offer>()
  #prepared: { readonly key: string; readonly value: PreparedDirect; readonly of: string } | undefined
  /** Last update that could not be prepared on some rank: the same one is not tried again. */
  #impossible: { readonly key: string; readonly problem: Problem } | undefined
  #watches: (() => void)[] = []
  #count: DirectCount = null
  /** Number of updates that the own worker replayed. */
  #replays: DirectCount = null
  /** True while an update may be using the prepared job. */
  #inUse = false
  /** True if a worker whose memory is mapped has died. */
  #stale = false

  /** Prepared layout, memory and workers, or those that could not be prepared, in a text that is equal on all ranks. */
  get ready(): string | null {
    const impossible = this.#impossible && IMPOSSIBLE + this.#impossible.key
    return this.#prepared?.key ?? impossible ?? null
  }

  /** Number of direct updates since the engine was recorded. */
  get count(): DirectCount {
    return this.#count
  }

  /**
   * Decides if this update can be direct; all ranks make the same decision. A job prepared for a checkpoint of the same layout, in the
   * same memory, and for the same workers is reused, as in each step of a training loop that registers into a pool.
   */
  async decide(context: UpdateContext, session: RecordingSession, inputs: DecisionInputs): Promise<Decision> {
    const decision = await this.foresee(context, session, inputs)
    if ('prepared' in decision) this.#count = decision.count
    else if (decision.replays) this.#replays = decision.replays
    return decision
  }

  /** Returns true if an update of such a checkpoint, in this memory, is prepared, as far as this rank knows. */
  isPrepared(manifest: Manifest, segments: readonly HostMemory[]): boolean {
    return this.#prepared?.of === placeOf(manifest, segments)
  }

  /** Prepares and decides like {@link decide}, but counts no update. */
  async foresee(context: UpdateContext, session: RecordingSession, inputs: DecisionInputs): Promise<Decision> {
    const { provenManifest: manifest, exchanges } = context
    this.#inUse = true
    const layout = layoutKey(manifest)
    const own = await this.#offer(context, session, layout)
    if (context.joining) return this.#stage(ELSEWHERE, false, context, own, inputs)
    const blobs = await exchanges.gatherBlobs('direct/offers', own.blob)
    const offers = this.#decode(blobs)
    const refused = offers.filter((offer) => 'refused' in offer)
    if (refused.length > 0) {
      const [first] = refused
      const record = refused.some((offer) => !offer.recorded)
      return this.#stage(`rank ${first!.rank}: ${first!.refused}`, record, context, own, inputs)
    }
    const offered = offers as Offered[]
    const key = hashOf(JSON.stringify([layout, blobs.map(({ digest }) => digest)]))
    // In this case no rank has to wait for another.
    if (inputs.announced.every(({ prepared }) => prepared === key)) {
      if (this.#prepared?.key === key) return this.#direct(this.#prepared.value, offered, context, inputs)
      const text = 'the prepared update was released meanwhile, because a checkpoint was unregistered'
      throw new CkptError('INVALID_STATE', text)
    }
    if (this.#impossible?.key === key && inputs.announced.every(({ prepared }) => prepared === IMPOSSIBLE + key)) {
      return this.#stage(this.#impossible.problem.reason, this.#impossible.problem.mismatch, context, own, inputs)
    }
    const problems = await exchanges.gather('direct/prepared', await this.#prepare(key, offered, context))
    const failed = problems.find((one) => one !== null)
    this.#impossible = failed?.lasting ? { key, problem: failed } : undefined
    if (!failed) return this.#direct(this.#prepared!.value, offered, context, inputs)
    await this.release()
    // The checkpoint differs in kind from the recorded one, so this one is recorded.
    return this.#stage(failed.reason, failed.mismatch, context, own, inputs)
  }

  /**
   * Marks the prepared job as unused until the next update is decided. It stays mapped, unless it includes a dead worker's
   * memory.
   */
  async idle(): Promise<void> {
    this.#inUse = false
    if (this.#stale) await this.release()
  }

  /** Unmaps the prepared job. */
  async release(): Promise<void> {
    for (const end of this.#watches.splice(0)) end()
    this.#inUse = false
    this.#stale = false
    const prepared = this.#prepared?.value
    this.#prepared = undefined
    await prepared?.[Symbol.asyncDispose]()
  }

  /** The system does not get back its memory, perhaps a GPU's, while it is mapped here. */
  #died(): void {
    this.#stale = true
    if (!this.#inUse) this.release().catch(() => undefined) // the end of this process unmaps the rest
  }

  /** Decodes all ranks' offers, each once. */
  #decode(blobs: readonly Blob[]): Offer[] {
    const offers = blobs.map(({ digest, payload }) => {
      let offer = this.#offers.get(digest)
      if (offer === undefined) this.#offers.set(digest, (offer = decodeOffer(payload)))
      return offer
    })
    const digests = new Set(blobs.map(({ digest }) => digest))
    for (const known of this.#offers.keys()) if (!digests.has(known)) this.#offers.delete(known)
    return offers
  }

  /** Prepares the update, unless it is already prepared. @returns the reason why that is impossible */
  async #prepare(key: string, offers: readonly Offered[], context: UpdateContext): Promise<Problem | null> {
    if (this.#prepared?.key === key) return null
    await this.release()
    try {
      const { device, rank, provenManifest: manifest, segments, signal } = context
      const of = placeOf(context.manifest, segments)
      const remote = await remoteAccess(context)
      const value = await PreparedDirect.make({ device, rank, manifest, segments, offers, remote, signal })
      this.#prepared = { key, value, of }
      this.#inUse = true
      this.#watches = value.workers.map(({ pid, mark }) => watchProcess(pid, mark, () => this.#died()))
      return null
    } catch (error) {
      const { code, message, fields } = CkptError.from(error, 'UNSUPPORTED')
      const lasting = code === 'UNSUPPORTED' || code === 'PLAN_INFEASIBLE'
      return { reason: message, mismatch: fields['mismatch'] === true, lasting }
    }
  }

  #direct(
    prepared: PreparedDirect,
    offers: readonly Offered[],
    { provenManifest }: UpdateContext,
    { announced, checkEvery }: DecisionInputs,
  ): Direct {
    const recordings = nameRecordings(offers.map(({ recording }) => recording.id))
    const updates = countUpdate(
      recordings,
      announced.map((one) => one.directs),
    )
    const count = { recordings, updates }
    const rehearsed = offers.some(({ recording }) => recording.rehearsed)
    if (!isChecked(updates, checkEvery, rehearsed)) return { prepared, count }
    const opaque = prepared.plan.opaque.map(({ name }) => name)
    const seed = `${recordings} ${updates}`
    return { prepared, count, ...choose(provenManifest, opaque, { seed, kinds: rehearsed && updates === 1 }) }
  }

  /** Returns the decision to stage. The worker can copy staged tensors itself if it has a recording of such a checkpoint. */
  #stage(
    reason: string,
    record: boolean,
    { manifest, kept }: UpdateContext,
    { recording }: OwnOffer,
    { checkEvery }: DecisionInputs,
  ): Staged {
    const staged = { reason, record, recorded: !record }
    if (record || recording === undefined || kept.of(Recordings).mismatch(recording, manifest) !== undefined) return staged
    const updates = countUpdate(recording.id, [this.#replays])
    const replayed = { ...staged, replay: recording.id, replays: { recordings: recording.id, updates } }
    const { rehearsed = false } = recording
    if (!isChecked(updates, checkEvery, rehearsed)) return replayed
    const opaque = recording.opaque.map(({ tensor }) => recording.tensors[tensor]!.name)
    const seed = `${recording.id} ${updates}`
    return { ...replayed, ...choose(manifest, opaque, { seed, kinds: rehearsed && updates === 1 }) }
  }

  async #offer(context: UpdateContext, session: RecordingSession, layout: string): Promise<OwnOffer> {
    const { rank, segments, device, signal } = context
    const refuse = (refused: string, recorded: boolean): OwnOffer => ({ blob: encodeOffer({ rank, refused, recorded }) })
    const recordings = context.kept.of(Recordings)
    const greeting = await session.greeted(signal)
    const { routes, protocol, process: worker } = greeting
    if (protocol < OLDEST_RECORDING_PROTOCOL) {
      return refuse(`its engine worker uses version ${protocol} of the worker protocol, which cannot record`, true)
    }
    const deviceUuids = nearDevices(context)
    const offered = segments.map(offerSegment)
    const keyOf = (recording: string | undefined) => JSON.stringify([layout, recording, offered, deviceUuids, worker])
    const distrusted = routes !== undefined && recordings.isDistrusted(routes)
    if (!distrusted && this.#own?.key === keyOf(routes)) return this.#own.offer
    const recording = await this.#recording(context, session, recordings, layout)
    if (typeof recording === 'string') {
      const hopeless = recordings.reasonNotToRecord(greeting)
      return refuse(hopeless ?? recording, hopeless !== undefined)
    }
    recordings.countUse()
    const unable = (refused: string): OwnOffer => ({ ...refuse(refused, true), recording })
    if (device.direct === undefined) return unable(`a ${device.kind} device cannot write into parameters`)
    const storages = await session.storages()
    if (typeof storages === 'string') return unable(storages)
    const problem = checkStorages(recording, storages)
    if (problem !== undefined) return unable(problem)
    const blob = encodeOffer({
      rank,
      recording,
      storages,
      segments: offered,
      ...(OWN_PROCESS && { owner: OWN_PROCESS }),
      ...(worker && { process: worker }),
      reaches: await device.direct.reaches(deviceUuids),
    })
    const offer = { blob, recording }
    this.#own = { key: keyOf(recording.id), offer }
    return offer
  }

  /**
   * Returns the worker's recording; one of such a checkpoint if the worker can rehearse that. @returns the reason if there is none
   */
  async #recording(
    { provenManifest: manifest, signal }: UpdateContext,
    session: RecordingSession,
    recordings: Recordings,
    layout: string,
  ): Promise<Recording | string> {
    const greeting = await session.greeted(signal)
    const { routes, rehearses = false } = greeting
    let found: Recording | string = 'its engine worker has no recording yet'
    if (routes !== undefined) {
      const distrusted = recordings.isDistrusted(routes)
      found = distrusted ? 'the last update by its recording wrote wrong bytes' : await recordings.byId(session, routes)
    }
    if (!rehearses || (typeof found !== 'string' && recordings.mismatch(found, manifest) === undefined)) return found
    const rehearsed = await recordings.rehearse(session, greeting, manifest, layout)
    // A loader that cannot be rehearsed is recorded while it loads.
    if (typeof rehearsed !== 'string') return rehearsed
    return typeof found === 'string' ? `${found} (${rehearsed})` : found
  }
}

/** Returns devices of the workers of this rank's host. */
function nearDevices({ provenManifest, endpoints, rank: own }: UpdateContext): string[] {
  const hosts = new Map(provenManifest.ranks.map(({ rank, host }) => [rank, host]))
  return endpoints.flatMap(({ rank, deviceUuid }) => (hosts.get(rank) === hosts.get(own) ? [deviceUuid] : []))
}

/** Used only if there are other hosts, because endpoints are created on first use. */
async function remoteAccess({ provenManifest, reach, timeoutMs }: UpdateContext): Promise<RemoteAccess | undefined> {
  const hosts = new Set(provenManifest.ranks.map(({ host }) => host))
  if (hosts.size === 1) return undefined
  const found = await reach()
  return found.endpoints.length > 0 ? { reach: found, timeoutMs } : undefined
}

/** Tensors that are copied by routes, or not at all: in both cases the loader must agree. */
function choose(
  manifest: Manifest,
  opaque: readonly string[],
  { seed, kinds }: { readonly seed: string; readonly kinds: boolean },
): { check?: SpotCheck } {
  const left = new Set(opaque)
  const candidates = [...heldTensors(manifest)].flatMap(([name, { bytes }]) => (left.has(name) ? [] : [{ name, bytes }]))
  const check = (kinds ? chooseKinds : chooseLayer)(candidates, seed)
  return check === undefined ? {} : { check }
}

/** Returns a key of a checkpoint's layout and of this rank's memory of it. */
function placeOf(manifest: Manifest, segments: readonly HostMemory[]): string {
  return JSON.stringify([layoutKey(manifest), segments.map(offerSegment)])
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}
