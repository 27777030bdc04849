import type { Span } from '@opentelemetry/api'
import {
  CkptError,
  refuseServiceLinks,
  type CallOptions,
  type Device,
  type Manifest,
  type RankReport,
  type Rendezvous,
} from '@ckpt/contract'
import { CheckpointStore, type CheckpointSource, type RegisterOptions } from '@ckpt/memory'
import type { FetchOptions } from '@ckpt/rendezvous'
import { createHostDevice } from '@ckpt/transport'
import { pino, type Logger } from 'pino'
import type { GatherMetasOptions, PrepareOptions, PrepareReport, UpdateOptions } from './call-options.ts'
import type { WorkerStatus } from './engine-states.ts'
import { anySignal, withDeadline } from '@ckpt/utils'
import { DEFAULT_TIMEOUT_MS, joinRanks, reportWaiting } from './join-ranks.ts'
import { KnownMetas } from './known-metas.ts'
import { readMetas, writeMetas } from './metas-file.ts'
import { memoryLimits, variablesRead, type MemoryLimits, type ParameterServerOptions } from './options.ts'
import { healthOf, type Health } from './health.ts'
import { Observers, type RankObserver } from './observers.ts'
import { inSpan } from './spans.ts'
import { RuntimeDir } from './runtime-dir.ts'
import { Serving } from '@ckpt/p2p'
import { rankEndpoints } from './rank-endpoints.ts'
import type { UpdateReport } from './report.ts'
import { timelineOf, type Timeline } from './timeline.ts'
import { Activity } from './activity.ts'
import { closeAll } from './close-all.ts'
import { readyEngines } from './update/ready-engine.ts'
import { Updates } from './update/updates.ts'

const DEFAULT_DRAIN_MS = 30_000
/** Maximum spans that all ranks together exchange for a trace: a few MiB, for any size of cluster. */
const GATHERED_SPANS = 200_000

/**
 * One rank: holds checkpoints in host memory and, together with the other ranks, moves them into running inference engines.
 *
 * Methods that concern all ranks (`gatherMetas`, `update`) must be called on every rank. Every failure is a `CkptError`. After
 * a failed update, registered checkpoints are unchanged and the next update is possible.
 */
export class ParameterServer implements AsyncDisposable {
  readonly #rendezvous: Rendezvous
  readonly #ownsRendezvous: boolean
  readonly #device: Device
  readonly #ownsDevice: boolean
  readonly #store: CheckpointStore
  readonly #metas: KnownMetas
  readonly #serving: Serving
  readonly #log: Logger
  readonly #timeoutMs: number
  readonly #updates: Updates
  readonly #onWaiting: ReturnType<typeof reportWaiting>
  readonly #closing = new AbortController()
  /** Activity of this rank, for observers. */
  readonly activity = new Activity()
  readonly #observers = new Observers()
  #draining = false
  #closed: Promise<void> | undefined

  private constructor(
    rendezvous: Rendezvous,
    device: Device,
    options: ParameterServerOptions,
    limits: MemoryLimits,
    directory: RuntimeDir,
  ) {
    this.#rendezvous = rendezvous
    this.#ownsRendezvous = typeof options.rendezvous !== 'object'
    this.#device = device
    this.#ownsDevice = options.device === undefined
    const { readDevice } = device
    this.#store = new CheckpointStore(device.host, {
      shareable: options.shareMemory ?? false,
      beforeFree: () => this.#updates.releasePrepared(),
      ...(readDevice && { reader: { readDevice: (request) => readDevice.call(device, request) } }),
    })
    const note = (error: CkptError) => this.#log.warn({ err: error }, 'an endpoint cannot serve')
    this.#serving = new Serving(() => rankEndpoints(options, note), note)
    this.#metas = new KnownMetas({ rendezvous, store: this.#store, serving: this.#serving, deviceUuid: device.uuid })
    this.#log = (options.logger ?? pino({ level: 'silent' })).child({ rank: rendezvous.rank })
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS
    this.#onWaiting = reportWaiting(options)
    this.#updates = new Updates({
      rendezvous,
      device,
      store: this.#store,
      metas: this.#metas,
      serving: this.#serving,
      activity: this.activity,
      observer: this.#observers,
      log: this.#log,
      limits,
      timeoutMs: this.#timeoutMs,
      keepAlive: options.keepAlive ?? false,
      directory,
      onWaiting: this.#onWaiting,
      closing: this.#closing.signal,
    })
  }

  /**
   * Joins the other ranks. @throws CkptError `INVALID_ARGUMENT` naming the option or variable, `RANK_MISSING`,
   * `RENDEZVOUS_REJECTED`, `ADDON_UNAVAILABLE`, `UNSUPPORTED` if no directory can hold this rank's sockets.
   *
   * In a worker thread, call `close()` before the thread is terminated; otherwise ZeroMQ's package ends the process
   * (docs/operations.md, "Worker threads").
   */
  static async create(options: ParameterServerOptions = {}, call: CallOptions = {}): Promise<ParameterServer> {
    refuseServiceLinks(process.env, variablesRead(options))
    const limits = memoryLimits(process.env)
    const directory = await RuntimeDir.create()
    let rendezvous: Rendezvous | undefined
    try {
      rendezvous = typeof options.rendezvous === 'object' ? options.rendezvous : await joinRanks(options, call)
      const threads = options.threads !== undefined ? { threads: options.threads } : {}
      const device = options.device ?? (await createHostDevice({ rank: rendezvous.rank, ...threads }))
      return new ParameterServer(rendezvous, device, options, limits, directory)
    } catch (error) {
      if (typeof options.rendezvous !== 'object') await rendezvous?.close()
      directory.close()
      throw error
    }
  }

  get rank(): number {
    return this.#rendezvous.rank
  }

  get worldSize(): number {
    return this.#rendezvous.worldSize
  }

  /** Bytes of this rank's memory that other ranks have pulled so far. */
  get servedBytes(): number {
    return this.#serving.servedBytes
  }

  /** Device that holds the engine's parameters. */
  get device(): Device {
    return this.#device
  }

  /**
   * Known states of the engine workers of all ranks: version, and dirty after a failed update. A successful update makes them
   * clean.
   */
  engineStates(): WorkerStatus[] {
    return this.#updates.engines.list()
  }

  /**
   * Reads a checkpoint into host memory under `name`. A failed registration changes nothing.
   *
   * @throws CkptError `CHECKPOINT_EXISTS`, `CHECKPOINT_MALFORMED` and `CHECKPOINT_UNREADABLE` naming the file, or the trainer's
   * socket and the tensor, `OUT_OF_MEMORY`, `UNSUPPORTED` for tensors on GPUs that the rank's device cannot read.
   */
  async registerCheckpoint(name: string, source: CheckpointSource, options: RegisterOptions = {}): Promise<void> {
    this.#assertTaking()
    await inSpan('ckpt.register', { 'ckpt.checkpoint': name, 'ckpt.rank': this.rank }, (span) =>
      this.#register(name, source, options, span),
    )
  }

  async #register(name: string, source: CheckpointSource, options: RegisterOptions, span: Span): Promise<void> {
    const started = performance.now()
    try {
      // A NIC that still reads unregistered memory must not find this checkpoint in its place.
      await this.#serving.settled()
      await this.#store.register(name, source, options)
    } catch (error) {
      this.#observers.refused(CkptError.from(error, 'NATIVE_FAILURE'))
      throw error
    }
    this.#metas.renew(name)
    const { tensors, segments } = this.#store.metas(name)
    const bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0)
    this.#observers.registered(bytes)
    span.setAttributes({ 'ckpt.bytes': bytes, 'ckpt.tensors': tensors.count })
    this.#log.info({ checkpoint: name, tensors: tensors.count, bytes, ms: performance.now() - started }, 'registered')
    this.activity.registered({ name, bytes, tensors: tensors.count })
  }

  /**
   * Releases the checkpoint's memory. The name is free at once. When this resolves, the memory is released to the system (or
   * the pool), except for what an update still reads.
   *
   * @throws CkptError `CHECKPOINT_UNKNOWN`, `CHECKPOINT_IN_USE` unless forced.
   */
  async unregisterCheckpoint(name: string, options: { readonly force?: boolean } = {}): Promise<void> {
    // Memory of the shared pool is kept, and so are jobs prepared to read it: the next checkpoint may have the same layout in it.
    const released = this.#store.isPooled(name) ? undefined : this.#updates.releasePrepared().catch(() => undefined)
    this.#store.unregister(name, options)
    this.#serving.close(name)
    this.#metas.forget(name)
    this.activity.unregistered(name)
    await released
    await this.#serving.settled()
    await this.#store.settled()
  }

  /**
   * Releases the shared pool's idle memory. @throws CkptError `CHECKPOINT_IN_USE` while a checkpoint uses it, unless forced.
   */
  async releasePool(options: { readonly force?: boolean } = {}): Promise<void> {
    this.#store.releasePool(options)
    await this.#updates.releasePrepared().catch(() => undefined)
    await this.#store.settled()
  }

  /**
   * Does what an update does before bytes move: the engine's workers tell where their loader puts each tensor (its requests
   * wait meanwhile), memory is mapped and pinned, and copies are planned. All ranks call it. It is kept for updates of checkpoints of
   * the same layout in the same memory, so that only the first call takes long. `update` without it does the same itself.
   *
   * @throws CkptError as `update`. What cannot be prepared is no error: the report has the reason.
   */
  prepare(name: string, options: PrepareOptions): Promise<PrepareReport> {
    this.#assertOpen()
    return this.#updates.prepare(name, options)
  }

  /**
   * Gathers what every rank holds of `name`; all ranks call it. A rank that did not register the checkpoint takes part with
   * nothing. Metas that have not changed since the last call are not sent again.
   */
  async gatherMetas(name: string, options: GatherMetasOptions = {}): Promise<Manifest> {
    this.#assertOpen()
    const { digests = false, engine, ...call } = options
    const manifest = await this.#metas.gather(name, digests, { timeoutMs: this.#timeoutMs, ...call })
    this.activity.gathered(manifest, this.#metas.access(name))
    if (digests) this.#updates.expect(manifest)
    if (engine) await this.prepare(name, { engine, verify: digests, ...call })
    return manifest
  }

  /** Returns the manifest that was last gathered or loaded. @throws CkptError `CHECKPOINT_UNKNOWN` if there is none. */
  getMetas(name: string): Manifest {
    return this.#metas.get(name)
  }

  /**
   * Writes the gathered metas to a file, from which a new instance can join. Ranks that kept the checkpoint when they joined
   * (`keep` of `p2p`) are listed in it together with those that they joined from.
   */
  async saveMetas(name: string, path: string): Promise<void> {
    await writeMetas(path, this.#metas.whole(name))
  }

  /**
   * Loads metas of a different world from a file that {@link ParameterServer.saveMetas} wrote: ranks of this world can then
   * pull that checkpoint in a p2p update. @throws CkptError `METAS_MALFORMED`.
   */
  async loadMetas(path: string): Promise<Manifest> {
    return this.#metas.adopt(await readMetas(path))
  }

  /**
   * Publishes the gathered metas at the coordinator. A new instance that knows the run's token reads them with
   * {@link ParameterServer.fetchMetas}. One rank calls it, again after each registration.
   */
  publishMetas(name: string): void {
    this.#metas.publish(name)
  }

  /**
   * Fetches the metas published at a different world's coordinator, as {@link ParameterServer.loadMetas} does from a file.
   *
   * @throws CkptError `CHECKPOINT_UNKNOWN` if nothing was published, `RENDEZVOUS_REJECTED`, `RANK_MISSING`, `METAS_MALFORMED`.
   */
  async fetchMetas(name: string, from: FetchOptions): Promise<Manifest> {
    return this.#metas.fetch(name, { timeoutMs: this.#timeoutMs, ...from })
  }

  /**
   * Waits until the engines of all ranks answer, so that a missing one is noticed before a checkpoint is read; all ranks call
   * it. @throws CkptError `ENGINE_UNREACHABLE` naming the rank and the engine's socket or URL, on every rank.
   */
  async waitForEngines(engine: UpdateOptions['engine'], options: CallOptions = {}): Promise<void> {
    this.#assertOpen()
    const { timeoutMs = this.#timeoutMs, signal } = options
    const wait = { timeoutMs, signal: anySignal(this.#closing.signal, signal), onWaiting: this.#onWaiting }
    await readyEngines({ engine, rendezvous: this.#rendezvous, ...wait })
  }

  /**
   * Moves the checkpoint into the engine's workers; all ranks call it with the same options. Gathers metas first if necessary.
   *
   * @throws CkptError of the rank that failed first, on every rank; on the other ranks as the cause of `ABORTED`. Field `dirty`
   * names
   *   the ranks whose workers may hold parts of it.
   */
  async update(name: string, options: UpdateOptions): Promise<UpdateReport> {
    this.#assertTaking()
    return this.#updates.run(name, options)
  }

  /**
   * Returns every rank's timeline of the same update, ascending by rank, for {@link writeTrace}; all ranks call it with their
   * own report. Large clusters join neighbouring spans, so that the ranks together send at most 200,000.
   */
  async gatherTimelines(report: UpdateReport, options: CallOptions = {}): Promise<Timeline[]> {
    const timeline = timelineOf(report, { maxSpans: Math.floor(GATHERED_SPANS / this.worldSize) })
    return this.exchange('timelines', timeline, options)
  }

  /**
   * Returns every rank's value, ascending by rank; all ranks call it with the same key. For small values that JSON can express,
   * such as what the ranks do next. @throws CkptError `RANK_MISSING` naming the ranks that did not call it, `RANK_LOST`.
   */
  async exchange<T>(key: string, value: T, options: CallOptions = {}): Promise<T[]> {
    this.#assertOpen()
    return this.#rendezvous.allGather(`exchange/${key}`, value, { timeoutMs: this.#timeoutMs, ...options })
  }

  /** Reports to `observer` what this rank does from now on, until it is closed. */
  observe(observer: RankObserver): void {
    this.#observers.add(observer)
  }

  /** Reports the measured minimum time of the last update, in milliseconds, to observers. */
  recordLimit(report: Pick<UpdateReport, 'totalMs'>, limitMs: number): void {
    this.#observers.limited(limitMs / 1000, report.totalMs / limitMs)
  }

  /** @deprecated Since 0.2: use {@link ParameterServer.recordLimit}. */
  noteLimit(report: Pick<UpdateReport, 'totalMs'>, limitMs: number): void {
    this.recordLimit(report, limitMs)
  }

  /** Returns this rank's readiness for an update, and the engines that it knows to need one. */
  health(): Health {
    const phase = this.#closed ? 'closed' : this.#draining ? 'draining' : 'open'
    return healthOf(this, { phase, lost: this.#rendezvous.lost, updating: this.#updates.running !== undefined })
  }

  /** Tells the coordinator about this rank, for {@link ParameterServer.reports}: at most 16 KiB; the latest report counts. */
  report(payload: Uint8Array): void {
    this.#rendezvous.report?.(payload)
  }

  /** Returns what the coordinator knows of each rank that has joined. @throws CkptError `RANK_LOST`, `TIMEOUT`. */
  async reports(options: CallOptions = {}): Promise<RankReport[]> {
    return (await this.#rendezvous.reports?.(options)) ?? []
  }

  /**
   * Accepts no further checkpoints and updates, lets a running update finish (for `timeoutMs` at most, default 30,000), and
   * closes. Call it on SIGTERM.
   */
  async drain(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    this.#draining = true
    const { running } = this.#updates
    if (running) {
      const { timeoutMs = DEFAULT_DRAIN_MS } = options
      this.#log.info({ timeoutMs }, 'draining: waiting for the running update')
      await withDeadline(
        running.then(() => undefined),
        { what: 'the running update', timeoutMs },
      ).catch(() => undefined)
    }
    await this.close()
  }

  #assertTaking(): void {
    this.#assertOpen()
    if (this.#draining) throw new CkptError('INVALID_STATE', 'the parameter server is draining')
  }

  #assertOpen(): void {
    if (this.#closed) throw new CkptError('INVALID_STATE', 'the parameter server is closed')
  }

  /** Stops a running update, leaves the other ranks and releases everything. Calling it again waits for the same end. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#closing.abort(new CkptError('ABORTED', `rank ${this.rank} is closing`, { fields: { rank: this.rank } }))
    await this.#updates.running
    await closeAll([
      () => this.#observers.closed(),
      ...this.#updates.closing(),
      () => this.#serving.end(),
      () => this.#store.close(),
      () => (this.#ownsRendezvous ? this.#rendezvous.close() : undefined),
      () => (this.#ownsDevice ? this.#device.close() : undefined),
    ])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
