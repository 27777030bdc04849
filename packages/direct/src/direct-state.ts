import { createHash } from 'node:crypto'
import { CkptError, type Device, type HostMemory, type Manifest, type Recording } from '@ckpt/contract'
import { heldTensors, misfit } from '@ckpt/planner'
import { checkStorages, OLDEST_RECORDING_PROTOCOL, processMark, type RecordingSession, watchProcess } from '@ckpt/worker-link'
import { decodeOffer, encodeOffer, type Offer, type Offered } from './offer.ts'
import { offerSegment } from './peer-memory.ts'
import { PreparedDirect } from './prepared.ts'
import { chooseLayer, countUpdate, isChecked, nameRecordings, type DirectCount } from './spot-check.ts'
import type { RemoteAccess } from './remote-reader.ts'

/** Ranks tell each other small values (`gather`) and larger ones that are sent only when they changed (`gatherBlobs`). */
export interface Exchanges {
  gather<T>(key: string, value: T): Promise<T[]>
  gatherBlobs(key: string, blob: { digest: string; payload: Uint8Array }): Promise<{ digest: string; payload: Uint8Array }[]>
}

export interface Proposal {
  readonly device: Device
  readonly rank: number
  readonly manifest: Manifest
  readonly segments: readonly HostMemory[]
  readonly session: RecordingSession
  /** Of all ranks that take part. */
  readonly deviceUuids: readonly string[]
  readonly exchanges: Exchanges
  /** How other hosts' memory is read; without it what is there alone cannot be written directly. */
  readonly remote: () => Promise<RemoteAccess | undefined>
  /** What each rank said at the update's begin: what it had prepared ({@link DirectState.ready}), and its count. */
  readonly announced: readonly { readonly prepared: string | null; readonly directs: DirectCount }[]
  /** How often a layer is checked. */
  readonly checkEvery: number
  readonly signal: AbortSignal
}

/** Either everything is ready, or why the update has to be staged, and whether it is worth recording. */
export type Decision =
  | { readonly prepared: PreparedDirect; readonly check?: SpotCheck }
  | {
      readonly reason: string
      readonly record: boolean
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

const OWN_MARK = processMark()
/** Whose descriptors the other ranks open. */
const OWN_PROCESS = OWN_MARK === undefined ? undefined : { pid: process.pid, mark: OWN_MARK }

/** What one rank keeps of direct updates: its worker's recording, and the last update that was prepared. */
export class DirectState {
  #recording: Recording | undefined
  /** The recording, where it is the one that the worker of the update under way has. */
  #usable: Recording | undefined
  /** Id of a recording by which an update went wrong. */
  #distrusted: string | undefined
  #own: { readonly key: string; readonly blob: { digest: string; payload: Uint8Array } } | undefined
  readonly #offers = new Map<string, Offer>()
  #prepared: { readonly key: string; readonly value: PreparedDirect } | undefined
  /** The last answer of {@link DirectState.#misfit}. */
  #compared: { readonly recording: Recording; readonly manifest: Manifest; readonly misfit: string | undefined } | undefined
  #watches: (() => void)[] = []
  #count: DirectCount = null
  /** Of updates that the own worker replayed. */
  #replays: DirectCount = null
  /** An update may be using what is prepared. */
  #inUse = false
  /** A worker is dead whose memory is mapped. */
  #stale = false

  /** What is prepared: which checkpoint for which workers, in the same words on all ranks. */
  get ready(): string | null {
    return this.#prepared?.key ?? null
  }

  /** Direct updates since the engine was recorded. */
  get count(): DirectCount {
    return this.#count
  }

  /** Takes the recording that a worker has just made with a checkpoint. @returns why it is not that checkpoint's, and not used */
  learn(recording: Recording, manifest: Manifest): string | undefined {
    const reason = this.#misfit(recording, manifest)
    if (reason === undefined) this.#recording = recording
    return reason
  }

  /** Why a recording is not of such a checkpoint: of a tensor that it never saw, it cannot say what became of it. */
  #misfit(recording: Recording, manifest: Manifest): string | undefined {
    if (this.#compared?.recording !== recording || this.#compared.manifest !== manifest) {
      this.#compared = { recording, manifest, misfit: misfit(heldTensors(manifest), recording) }
    }
    return this.#compared.misfit
  }

  /** Parameters were found wrong after an update by this recording: the next update is staged, and recorded. */
  distrust(recording: Recording): void {
    this.#distrusted = recording.id
    this.#recording = undefined
    this.#own = undefined
  }

  /**
   * The recording that a session's worker holds, where it holds one that can be trusted and is of such a checkpoint; asked for where it is not
   * known yet.
   */
  async recordingOf(session: RecordingSession, manifest: Manifest, signal: AbortSignal): Promise<Recording | undefined> {
    const { routes, protocol } = await session.greeted(signal)
    if (routes === undefined || routes === this.#distrusted || protocol < OLDEST_RECORDING_PROTOCOL) return undefined
    if (this.#recording?.id !== routes) {
      const recording = await session.routes()
      if (typeof recording === 'string') return undefined
      this.#recording = recording
    }
    return this.#misfit(this.#recording, manifest) === undefined ? this.#recording : undefined
  }

  /**
   * Whether this update can be direct; all ranks come to the same decision. What was prepared for the same checkpoint and the same
   * workers is used again.
   */
  async decide(proposal: Proposal): Promise<Decision> {
    const { exchanges, manifest, rank, device } = proposal
    this.#inUse = true
    const blobs = await exchanges.gatherBlobs('direct/offers', await this.#offer(proposal))
    const offers = blobs.map(({ digest, payload }) => {
      let offer = this.#offers.get(digest)
      if (offer === undefined) this.#offers.set(digest, (offer = decodeOffer(payload)))
      return offer
    })
    const digests = blobs.map(({ digest }) => digest)
    for (const known of this.#offers.keys()) if (!digests.includes(known)) this.#offers.delete(known)
    const refused = offers.filter((offer) => 'refused' in offer)
    if (refused.length > 0) {
      const [first] = refused
      const record = refused.some((offer) => !offer.recorded)
      return {
        reason: `rank ${first!.rank}: ${first!.refused}`,
        record,
        recorded: !record,
        ...(!record && this.#replay(proposal)),
      }
    }
    const key = createHash('sha256')
      .update(JSON.stringify([manifest.digest, manifest.ranks.map(({ host }) => host), digests]))
      .digest('hex')
      .slice(0, 32)
    // Then nobody has to wait for anybody.
    if (proposal.announced.every(({ prepared }) => prepared === key)) {
      if (this.#prepared?.key === key) return this.#direct(this.#prepared.value, proposal, offers as Offered[])
      throw new CkptError(
        'INVALID_STATE',
        'what was prepared for this update was given up meanwhile: a checkpoint was unregistered',
      )
    }
    let problem: { readonly reason: string; readonly misfit: boolean } | null = null
    if (this.#prepared?.key !== key) {
      await this.drop()
      try {
        const value = await PreparedDirect.make(
          device,
          rank,
          manifest,
          proposal.segments,
          offers as Offered[],
          await this.#remote(proposal),
        )
        this.#prepared = { key, value }
        this.#inUse = true
        this.#watches = value.workers.map(({ pid, mark }) => watchProcess(pid, mark, () => this.#died()))
      } catch (error) {
        const { message, fields } = CkptError.from(error, 'UNSUPPORTED')
        problem = { reason: message, misfit: fields['misfit'] === true }
      }
    }
    const problems = await exchanges.gather('direct/prepared', problem)
    const failed = problems.find((one) => one !== null)
    if (failed) {
      await this.drop()
      // Another kind of checkpoint than the one recorded: this one is.
      const { reason, misfit: record } = failed
      return { reason, record, recorded: !record, ...(!record && this.#replay(proposal)) }
    }
    return this.#direct(this.#prepared!.value, proposal, offers as Offered[])
  }

  #direct(prepared: PreparedDirect, proposal: Proposal, offers: readonly Offered[]): Decision {
    const recordings = nameRecordings(offers.map(({ recording }) => recording.id))
    const directs = proposal.announced.map((one) => one.directs)
    const updates = countUpdate(recordings, directs)
    this.#count = { recordings, updates }
    if (!isChecked(updates, proposal.checkEvery)) return { prepared }
    const opaque = prepared.plan.opaque.map(({ name }) => name)
    return { prepared, ...choose(proposal.manifest, opaque, `${recordings} ${updates}`) }
  }

  /** No update uses what is prepared, until the next one is decided on. It stays, unless it is a dead worker's memory. */
  async rest(): Promise<void> {
    this.#inUse = false
    if (this.#stale) await this.drop()
  }

  /** Its memory, a GPU's perhaps, is not given back while it is mapped here. */
  #died(): void {
    this.#stale = true
    if (!this.#inUse) this.drop().catch(() => undefined) // what cannot be unmapped goes with this process
  }

  /** Unmaps what was prepared. */
  async drop(): Promise<void> {
    for (const end of this.#watches.splice(0)) end()
    this.#inUse = false
    this.#stale = false
    const prepared = this.#prepared?.value
    this.#prepared = undefined
    await prepared?.[Symbol.asyncDispose]()
  }

  /** Only where there are other hosts: endpoints are made when they are asked for first. */
  async #remote({ manifest, remote }: Proposal): Promise<RemoteAccess | undefined> {
    const hosts = new Set(manifest.ranks.map(({ host }) => host))
    const found = hosts.size > 1 ? await remote() : undefined
    return found && found.endpoints.length > 0 ? found : undefined
  }

  /** What is staged can be copied by the worker itself where it has a recording, of such a checkpoint. */
  #replay({ manifest, checkEvery }: Proposal): { replay?: string; check?: SpotCheck } {
    const recording = this.#usable
    if (recording === undefined || misfit(heldTensors(manifest), recording) !== undefined) return {}
    const updates = countUpdate(recording.id, [this.#replays])
    this.#replays = { recordings: recording.id, updates }
    if (!isChecked(updates, checkEvery)) return { replay: recording.id }
    const opaque = recording.opaque.map(({ tensor }) => recording.tensors[tensor]!.name)
    return { replay: recording.id, ...choose(manifest, opaque, `${recording.id} ${updates}`) }
  }

  async #offer({ session, signal, rank, segments, device, deviceUuids }: Proposal): Promise<ReturnType<typeof encodeOffer>> {
    const { routes, protocol, process: worker } = await session.greeted(signal)
    this.#usable = undefined
    if (protocol < OLDEST_RECORDING_PROTOCOL) {
      const refused = `its engine worker speaks version ${protocol} of the worker protocol, which cannot record`
      return encodeOffer({ rank, refused, recorded: true })
    }
    if (routes === undefined) {
      return encodeOffer({ rank, refused: 'what its engine worker copies where is not known yet', recorded: false })
    }
    if (routes === this.#distrusted) {
      return encodeOffer({ rank, refused: 'the last update by its recording brought wrong bytes', recorded: false })
    }
    const offered = segments.map(offerSegment)
    const key = JSON.stringify([routes, offered, deviceUuids, worker])
    if (this.#own?.key === key) {
      this.#usable = this.#recording
      return this.#own.blob
    }
    if (this.#recording?.id !== routes) {
      const recording = await session.routes()
      if (typeof recording === 'string') return encodeOffer({ rank, refused: recording, recorded: false })
      this.#recording = recording
    }
    this.#usable = this.#recording
    if (device.direct === undefined) {
      return encodeOffer({ rank, refused: `a ${device.kind} device cannot write into parameters`, recorded: true })
    }
    const storages = await session.storages()
    const problem = typeof storages === 'string' ? storages : checkStorages(this.#recording, storages)
    if (typeof storages === 'string' || problem !== undefined) {
      return encodeOffer({ rank, refused: problem ?? '', recorded: true })
    }
    const reaches = await device.direct.reaches(deviceUuids)
    const blob = encodeOffer({
      rank,
      recording: this.#recording,
      storages,
      segments: offered,
      ...(OWN_PROCESS && { owner: OWN_PROCESS }),
      ...(worker && { process: worker }),
      reaches,
    })
    this.#own = { key, blob }
    return blob
  }
}

/** Tensors that are copied by routes, or by no one: whichever they are, the loader must agree. */
function choose(manifest: Manifest, opaque: readonly string[], seed: string): { check?: SpotCheck } {
  const left = new Set(opaque)
  const candidates = [...heldTensors(manifest)].flatMap(([name, { bytes }]) => (left.has(name) ? [] : [{ name, bytes }]))
  const check = chooseLayer(candidates, seed)
  return check === undefined ? {} : { check }
}
