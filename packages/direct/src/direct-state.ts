import { createHash } from 'node:crypto'
import {
  CkptError,
  OLDEST_RECORDING_PROTOCOL,
  type Blob,
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
import { chooseLayer, countUpdate, isChecked, nameRecordings, type DirectCount } from './spot-check.ts'

/** Either everything is ready, or why the update has to be staged, and whether it is worth recording. */
export type Decision = Direct | Staged

export interface Direct {
  readonly prepared: PreparedDirect
  readonly check?: SpotCheck
}

export interface Staged {
  readonly reason: string
  readonly record: boolean
  /** True if the engine was recorded already. */
  readonly recorded: boolean
  /** Id of the recording by which the own worker can copy what it is given. */
  readonly replay?: string
  readonly check?: SpotCheck
}

/** What the engine's own loader is held against in an update. */
export interface SpotCheck {
  readonly layer: string
  readonly tensors: readonly string[]
}

/** What decides about an update besides its context. */
export interface DecisionInputs {
  /** What each rank said at the update's begin. */
  readonly announced: readonly DirectAnnouncement[]
  /** How often a layer is checked. */
  readonly checkEvery: number
}

/** What this rank offers, with its recording where that can be used. */
interface OwnOffer {
  readonly blob: Blob
  readonly recording?: Recording
}

const OWN_MARK = processMark()
/** Whose descriptors the other ranks open. */
const OWN_PROCESS = OWN_MARK === undefined ? undefined : { pid: process.pid, mark: OWN_MARK }

/** What one rank keeps of direct updates: what it offered, and the last update that was prepared. */
export class DirectState implements Kept {
  #own: { readonly key: string; readonly offer: OwnOffer } | undefined
  readonly #offers = new Map<string, Offer>()
  #prepared: { readonly key: string; readonly value: PreparedDirect } | undefined
  #watches: (() => void)[] = []
  #count: DirectCount = null
  /** Of updates that the own worker replayed. */
  #replays: DirectCount = null
  /** An update may be using what is prepared. */
  #inUse = false
  /** A worker is dead whose memory is mapped. */
  #stale = false

  /** What is prepared: which layout, in which memory, for which workers, in the same words on all ranks. */
  get ready(): string | null {
    return this.#prepared?.key ?? null
  }

  /** Direct updates since the engine was recorded. */
  get count(): DirectCount {
    return this.#count
  }

  /**
   * Whether this update can be direct; all ranks come to the same decision. What was prepared for a checkpoint of the same layout, in the
   * same memory, and for the same workers is used again, as in each step of a training loop that registers into a pool.
   */
  async decide(context: UpdateContext, session: RecordingSession, inputs: DecisionInputs): Promise<Decision> {
    const { provenManifest: manifest, exchanges } = context
    this.#inUse = true
    const own = await this.#offer(context, session)
    const blobs = await exchanges.gatherBlobs('direct/offers', own.blob)
    const offers = this.#decode(blobs)
    const refused = offers.filter((offer) => 'refused' in offer)
    if (refused.length > 0) {
      const [first] = refused
      const record = refused.some((offer) => !offer.recorded)
      return this.#stage(`rank ${first!.rank}: ${first!.refused}`, record, context, own, inputs)
    }
    const offered = offers as Offered[]
    const key = hashOf(JSON.stringify([layoutKey(manifest), blobs.map(({ digest }) => digest)]))
    // Then nobody has to wait for anybody.
    if (inputs.announced.every(({ prepared }) => prepared === key)) {
      if (this.#prepared?.key === key) return this.#direct(this.#prepared.value, offered, context, inputs)
      const text = 'what was prepared for this update was given up meanwhile: a checkpoint was unregistered'
      throw new CkptError('INVALID_STATE', text)
    }
    const problems = await exchanges.gather('direct/prepared', await this.#prepare(key, offered, context))
    const failed = problems.find((one) => one !== null)
    if (!failed) return this.#direct(this.#prepared!.value, offered, context, inputs)
    await this.release()
    // Another kind of checkpoint than the one recorded: this one is.
    return this.#stage(failed.reason, failed.mismatch, context, own, inputs)
  }

  /** No update uses what is prepared, until the next one is decided on. It stays, unless it is a dead worker's memory. */
  async idle(): Promise<void> {
    this.#inUse = false
    if (this.#stale) await this.release()
  }

  /** Unmaps what was prepared. */
  async release(): Promise<void> {
    for (const end of this.#watches.splice(0)) end()
    this.#inUse = false
    this.#stale = false
    const prepared = this.#prepared?.value
    this.#prepared = undefined
    await prepared?.[Symbol.asyncDispose]()
  }

  /** Its memory, a GPU's perhaps, is not given back while it is mapped here. */
  #died(): void {
    this.#stale = true
    if (!this.#inUse) this.release().catch(() => undefined) // what cannot be unmapped goes with this process
  }

  /** What all ranks offer; each offer is decoded once. */
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

  /** Prepares, unless that was done. @returns why it cannot be done; `mismatch`: the checkpoint is of another kind than the recorded one. */
  async #prepare(
    key: string,
    offers: readonly Offered[],
    context: UpdateContext,
  ): Promise<{ readonly reason: string; readonly mismatch: boolean } | null> {
    if (this.#prepared?.key === key) return null
    await this.release()
    try {
      const { device, rank, provenManifest: manifest, segments } = context
      const remote = await remoteAccess(context)
      const value = await PreparedDirect.make({ device, rank, manifest, segments, offers, remote })
      this.#prepared = { key, value }
      this.#inUse = true
      this.#watches = value.workers.map(({ pid, mark }) => watchProcess(pid, mark, () => this.#died()))
      return null
    } catch (error) {
      const { message, fields } = CkptError.from(error, 'UNSUPPORTED')
      return { reason: message, mismatch: fields['mismatch'] === true }
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
    this.#count = { recordings, updates }
    if (!isChecked(updates, checkEvery)) return { prepared }
    const opaque = prepared.plan.opaque.map(({ name }) => name)
    return { prepared, ...choose(provenManifest, opaque, `${recordings} ${updates}`) }
  }

  /** What is staged can be copied by the worker itself where it has a recording, of such a checkpoint. */
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
    this.#replays = { recordings: recording.id, updates }
    const replayed = { ...staged, replay: recording.id }
    if (!isChecked(updates, checkEvery)) return replayed
    const opaque = recording.opaque.map(({ tensor }) => recording.tensors[tensor]!.name)
    return { ...replayed, ...choose(manifest, opaque, `${recording.id} ${updates}`) }
  }

  async #offer(context: UpdateContext, session: RecordingSession): Promise<OwnOffer> {
    const { rank, segments, device, signal } = context
    const refuse = (refused: string, recorded: boolean): OwnOffer => ({ blob: encodeOffer({ rank, refused, recorded }) })
    const recordings = context.kept.of(Recordings)
    const { routes, protocol, process: worker } = await session.greeted(signal)
    if (protocol < OLDEST_RECORDING_PROTOCOL) {
      return refuse(`its engine worker speaks version ${protocol} of the worker protocol, which cannot record`, true)
    }
    if (routes === undefined) return refuse('what its engine worker copies where is not known yet', false)
    if (recordings.isDistrusted(routes)) return refuse('the last update by its recording brought wrong bytes', false)
    const deviceUuids = nearDevices(context)
    const offered = segments.map(offerSegment)
    const key = JSON.stringify([routes, offered, deviceUuids, worker])
    if (this.#own?.key === key) return this.#own.offer
    const recording = await recordings.byId(session, routes)
    if (typeof recording === 'string') return refuse(recording, false)
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
    this.#own = { key, offer }
    return offer
  }
}

/** Devices of the workers of this rank's host. */
function nearDevices({ provenManifest, endpoints, rank: own }: UpdateContext): string[] {
  const hosts = new Map(provenManifest.ranks.map(({ rank, host }) => [rank, host]))
  return endpoints.flatMap(({ rank, deviceUuid }) => (hosts.get(rank) === hosts.get(own) ? [deviceUuid] : []))
}

/** Only where there are other hosts: endpoints are made when they are asked for first. */
async function remoteAccess({ provenManifest, reach, timeoutMs }: UpdateContext): Promise<RemoteAccess | undefined> {
  const hosts = new Set(provenManifest.ranks.map(({ host }) => host))
  if (hosts.size === 1) return undefined
  const found = await reach()
  return found.endpoints.length > 0 ? { reach: found, timeoutMs } : undefined
}

/** Tensors that are copied by routes, or by no one: whichever they are, the loader must agree. */
function choose(manifest: Manifest, opaque: readonly string[], seed: string): { check?: SpotCheck } {
  const left = new Set(opaque)
  const candidates = [...heldTensors(manifest)].flatMap(([name, { bytes }]) => (left.has(name) ? [] : [{ name, bytes }]))
  const check = chooseLayer(candidates, seed)
  return check === undefined ? {} : { check }
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}
