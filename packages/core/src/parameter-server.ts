import { randomBytes } from 'node:crypto'
import { broadcast } from '@ckpt/broadcast'
import type { Span } from '@opentelemetry/api'
import { CkptError, type CallOptions, type Device, type Epoch, type Manifest, type Rendezvous } from '@ckpt/contract'
import { CheckpointStore, type CheckpointSource, type RegisterOptions } from '@ckpt/memory'
import { joinRendezvous, rendezvousOptionsFromEnv, type FetchOptions } from '@ckpt/rendezvous'
import { createHostDevice } from '@ckpt/transport'
import { pino, type Logger } from 'pino'
import type { GatherMetasOptions, UpdateOptions } from './call-options.ts'
import { DirectState } from './direct/state.ts'
import { EngineStates, type WorkerStatus } from './engine-states.ts'
import { withDeadline } from './deadline.ts'
import { KnownMetas } from './known-metas.ts'
import { tensorCount } from './manifest.ts'
import { readMetas, writeMetas } from './metas-file.ts'
import { memoryLimits, metricsAddress, type MemoryLimits, type ParameterServerOptions } from './options.ts'
import { serveMetrics, type Health } from './observe/metrics-server.ts'
import { UpdateMetrics } from './observe/metrics.ts'
import { describeUpdate, inSpan } from './observe/spans.ts'
import { serve } from './p2p/endpoints.ts'
import { Serving } from './p2p/serving.ts'
import type { UpdateReport } from './report.ts'
import { RuntimeDir } from './runtime-dir.ts'
import { timelineOf, type Timeline } from './timeline.ts'
import { PlanCache } from './update/plan-cache.ts'
import type { UpdatePhase } from './update/progress.ts'
import { updateWithRecovery, type Attempt } from './update/recovery.ts'
import { UpdateResources } from './update/resources.ts'
import { Activity } from './activity.ts'
import { NO_LEASE } from './nothing.ts'
import { aborted, anySignal, once } from './signals.ts'
import type { UpdateRun } from './update/run.ts'
import { runUpdate } from './update/update.ts'

const DEFAULT_TIMEOUT_MS = 120_000
const DEFAULT_DRAIN_MS = 30_000
/** Devices pass an abort on faster than the rendezvous: this long a rank waits for the error it began with before it reports its own. */
const ORIGIN_GRACE_MS = 1000
/** The part of the free memory a ring may take where nothing else is said: the engine's own needs come first. */
const DEFAULT_FRACTION = 0.5
/** Spans that all ranks together send each other for a trace: a few MiB, whatever the size of the cluster. */
const GATHERED_SPANS = 200_000

/**
 * One rank: holds checkpoints in host memory, and together with the other ranks moves them into running inference engines.
 *
 * Methods that concern all ranks (`gatherMetas`, `update`) must be called on every rank. Every failure is a `CkptError`; a failed
 * update leaves registered checkpoints untouched and the next update possible.
 */
export class ParameterServer implements AsyncDisposable {
  readonly #rendezvous: Rendezvous
  readonly #ownsRendezvous: boolean
  readonly #device: Device
  readonly #ownsDevice: boolean
  readonly #store: CheckpointStore
  readonly #resources: UpdateResources
  readonly #plans = new PlanCache()
  readonly #direct = new DirectState()
  readonly #engines = new EngineStates()
  readonly #metas: KnownMetas
  readonly #serving: Serving
  readonly #directory = new RuntimeDir()
  readonly #token = randomBytes(24).toString('base64url')
  readonly #log: Logger
  readonly #timeoutMs: number
  readonly #keepAlive: boolean
  readonly #limits: MemoryLimits
  readonly #closing = new AbortController()
  /** What this rank has been doing, for those who look on. */
  readonly activity = new Activity()
  readonly #metrics: UpdateMetrics
  #metricsServer: { close(): Promise<void> } | undefined
  #draining = false
  #updating: Promise<unknown> | undefined
  #closed: Promise<void> | undefined

  private constructor(rendezvous: Rendezvous, device: Device, options: ParameterServerOptions, limits: MemoryLimits) {
    this.#rendezvous = rendezvous
    this.#ownsRendezvous = typeof options.rendezvous !== 'object'
    this.#device = device
    this.#ownsDevice = options.device === undefined
    const { readDevice } = device
    this.#store = new CheckpointStore(device.host, {
      shareable: options.shareMemory ?? false,
      ...(readDevice && { reader: { readDevice: (request) => readDevice.call(device, request) } }),
    })
    this.#resources = new UpdateResources(device)
    const note = (error: CkptError) => this.#log.warn({ err: error }, 'an endpoint cannot serve')
    this.#serving = new Serving(async () => {
      if (options.serve === false) return []
      const { rendezvous: met } = options
      const meetingPoint = typeof met === 'string' ? met : rendezvousOptionsFromEnv(process.env).address
      return serve(options.serve ?? {}, process.env, meetingPoint, note)
    }, note)
    this.#metas = new KnownMetas({ rendezvous, store: this.#store, serving: this.#serving, deviceUuid: device.uuid })
    this.#log = (options.logger ?? pino({ level: 'silent' })).child({ rank: rendezvous.rank })
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS
    this.#keepAlive = options.keepAlive ?? false
    this.#limits = limits
    this.#metrics = new UpdateMetrics({
      rank: rendezvous.rank,
      worldSize: () => this.worldSize,
      engines: () => this.engineStates(),
      hindrances: () => this.health().hindrances,
    })
  }

  /**
   * Joins the other ranks. @throws CkptError `INVALID_ARGUMENT` naming the option or variable, `RANK_MISSING`,
   * `RENDEZVOUS_REJECTED`, `ADDON_UNAVAILABLE`.
   */
  static async create(options: ParameterServerOptions = {}, call: CallOptions = {}): Promise<ParameterServer> {
    const limits = memoryLimits(process.env)
    const metrics = metricsAddress(options.metricsPort, process.env)
    let rendezvous: Rendezvous
    if (typeof options.rendezvous === 'object') rendezvous = options.rendezvous
    else {
      rendezvous = await joinRendezvous({
        ...rendezvousOptionsFromEnv(process.env),
        ...(options.rank !== undefined && { rank: options.rank }),
        ...(options.worldSize !== undefined && { worldSize: options.worldSize }),
        ...(options.rendezvous !== undefined && { address: options.rendezvous }),
        ...(options.token !== undefined && { token: options.token }),
        ...(options.insecure !== undefined && { insecure: options.insecure }),
        ...(options.elastic !== undefined && { elastic: options.elastic }),
        rejoin: true,
        ...(options.heartbeatMs !== undefined && { heartbeatMs: options.heartbeatMs }),
        ...(options.heartbeatTimeoutMs !== undefined && { heartbeatTimeoutMs: options.heartbeatTimeoutMs }),
        timeoutMs: call.timeoutMs ?? options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
        ...(call.signal && { signal: call.signal }),
      })
    }
    try {
      const threads = options.threads !== undefined ? { threads: options.threads } : {}
      const device = options.device ?? (await createHostDevice({ rank: rendezvous.rank, ...threads }))
      const server = new ParameterServer(rendezvous, device, options, limits)
      if (metrics)
        server.#metricsServer = await serveMetrics(server, metrics).catch(async (error: unknown) => {
          await server.close()
          throw error
        })
      return server
    } catch (error) {
      if (typeof options.rendezvous !== 'object') await rendezvous.close()
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

  /** The device whose memory the engine's parameters live in. */
  get device(): Device {
    return this.#device
  }

  /**
   * What is known of the engine workers of all ranks: version, and whether a failed update left them dirty. An update that goes well makes
   * them clean.
   */
  engineStates(): WorkerStatus[] {
    return this.#engines.list()
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
      await this.#store.register(name, source, options)
    } catch (error) {
      this.#metrics.refused(CkptError.from(error, 'NATIVE_FAILURE'))
      throw error
    }
    this.#metas.renew(name)
    const { tensors, segments } = this.#store.metas(name)
    const bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0)
    this.#metrics.registered(bytes)
    span.setAttributes({ 'ckpt.bytes': bytes, 'ckpt.tensors': tensors.count })
    this.#log.info({ checkpoint: name, tensors: tensors.count, bytes, ms: performance.now() - started }, 'registered')
    this.activity.registered({ name, bytes, tensors: tensors.count })
  }

  /** Gives the checkpoint's memory back. @throws CkptError `CHECKPOINT_UNKNOWN`, `CHECKPOINT_IN_USE` unless forced. */
  unregisterCheckpoint(name: string, options: { readonly force?: boolean } = {}): void {
    // What was prepared keeps using the memory until the next update: that would be another checkpoint's.
    void this.#direct.drop().catch(() => undefined)
    this.#store.unregister(name, options)
    this.#serving.close(name)
    this.#metas.forget(name)
    this.activity.unregistered(name)
  }

  /** Frees the shared pool's idle memory. @throws CkptError `CHECKPOINT_IN_USE` while a checkpoint uses it, unless forced. */
  releasePool(options: { readonly force?: boolean } = {}): void {
    this.#store.releasePool(options)
  }

  /**
   * Learns what every rank holds of `name`; all ranks call it. A rank that did not register the checkpoint takes part with nothing.
   * What has not changed since the last call is not sent again.
   */
  async gatherMetas(name: string, options: GatherMetasOptions = {}): Promise<Manifest> {
    this.#assertOpen()
    const { digests = false, ...call } = options
    const manifest = await this.#metas.gather(name, digests, { timeoutMs: this.#timeoutMs, ...call })
    this.activity.gathered(manifest)
    return manifest
  }

  /** The manifest that was last gathered or loaded. @throws CkptError `CHECKPOINT_UNKNOWN` when there is none. */
  getMetas(name: string): Manifest {
    return this.#metas.get(name)
  }

  /** Writes the gathered metas to a file, from which a new instance can join. */
  async saveMetas(name: string, path: string): Promise<void> {
    await writeMetas(path, this.#metas.whole(name))
  }

  /**
   * Takes metas from a file that {@link ParameterServer.saveMetas} wrote, of another world: ranks of this one can then pull that
   * checkpoint by a p2p update. @throws CkptError `METAS_MALFORMED`.
   */
  async loadMetas(path: string): Promise<Manifest> {
    return this.#metas.adopt(await readMetas(path))
  }

  /**
   * Leaves the gathered metas with the coordinator, from where a new instance that knows the run's token can {@link
   * ParameterServer.fetchMetas}. One rank calls it, again after each registration.
   */
  publishMetas(name: string): void {
    this.#metas.publish(name)
  }

  /**
   * Takes the metas that another world's coordinator was left with, as {@link ParameterServer.loadMetas} does from a file.
   *
   * @throws CkptError `CHECKPOINT_UNKNOWN` where nothing was published, `RENDEZVOUS_REJECTED`, `RANK_MISSING`, `METAS_MALFORMED`.
   */
  async fetchMetas(name: string, from: FetchOptions): Promise<Manifest> {
    return this.#metas.fetch(name, { timeoutMs: this.#timeoutMs, ...from })
  }

  /**
   * Moves the checkpoint into the engine's workers; all ranks call it with the same options. Gathers metas first where this was
   * not done.
   *
   * @throws CkptError of whichever rank failed first, on every rank; on the others wrapped in `ABORTED` with its cause. Field `dirty` names
   *   the ranks whose workers may hold parts of it.
   */
  async update(name: string, options: UpdateOptions): Promise<UpdateReport> {
    this.#assertTaking()
    if (this.#updating) throw new CkptError('INVALID_STATE', 'an update is running on this rank already')
    const { activity } = this
    activity.began(name, options.version ?? name, options.strategy?.name ?? 'broadcast')
    const running = this.#observed(name, options)
    this.#updating = running.catch(() => undefined)
    try {
      const report = await running
      activity.ended(report)
      return report
    } catch (error) {
      activity.failed(CkptError.from(error, 'UPDATE_FAILED'))
      throw error
    } finally {
      this.#updating = undefined
    }
  }

  /** The update, with its span and numbers. */
  #observed(name: string, options: UpdateOptions): Promise<UpdateReport> {
    const attributes = { 'ckpt.checkpoint': name, 'ckpt.rank': this.rank, 'ckpt.engine': options.engine.name }
    return inSpan('ckpt.update', attributes, async (span) => {
      try {
        const report = await this.#update(name, options)
        this.#metrics.updated(options.engine.name, report)
        describeUpdate(span, report)
        return report
      } catch (error) {
        this.#metrics.failed(options.engine.name, options.strategy?.name ?? 'broadcast', CkptError.from(error, 'UPDATE_FAILED'))
        throw error
      }
    })
  }

  async #update(name: string, options: UpdateOptions): Promise<UpdateReport> {
    const { engine, retry = 0, rollback = false, timeoutMs = this.#timeoutMs } = options
    if (!Number.isInteger(retry) || retry < 0) {
      throw new CkptError('INVALID_ARGUMENT', `retry: ${retry} is not a number of attempts`, { fields: { field: 'retry' } })
    }
    const signal = anySignal(this.#closing.signal, options.signal)
    return updateWithRecovery(
      { checkpoint: name, version: options.version ?? name },
      {
        rendezvous: this.#rendezvous,
        retry,
        rollback,
        ...(options.strategy?.name === 'p2p' && options.strategy.ranks && { ranks: options.strategy.ranks }),
        timeoutMs,
        signal,
        attempt: (attempt) => this.#attempt(attempt, options, signal),
        previous: () => this.#engines.previous(engine.name, (checkpoint) => this.#metas.find(checkpoint)?.digest),
        onRetry: ({ code }, attempt) => {
          this.#metrics.retried()
          this.#log.warn({ code, attempt, checkpoint: name }, 'the update is tried again')
        },
      },
    )
  }

  async #attempt(attempt: Attempt, options: UpdateOptions, outer: AbortSignal): Promise<UpdateReport> {
    const { checkpoint: name, version, progress, failed } = attempt
    const { engine, timeoutMs = this.#timeoutMs, strategy = broadcast() } = options
    const { verify = engine.protocol !== 'checkpoint-engine' } = options
    const started = performance.now()
    const receivers = strategy.name === 'p2p' ? strategy.ranks : undefined
    if (receivers && !receivers.includes(this.rank)) {
      throw new CkptError('INVALID_ARGUMENT', `rank ${this.rank} is not among the ranks ${receivers.join(', ')} that receive`, {
        fields: { field: 'ranks', ranks: receivers },
      })
    }
    // Where all take part, always gathered anew: another rank may have registered again, and what has not changed is not sent again.
    if (!receivers) await this.gatherMetas(name, { digests: verify, timeoutMs, signal: outer })
    const manifest = this.getMetas(name)
    if (tensorCount(manifest) === 0) {
      throw new CkptError('CHECKPOINT_UNKNOWN', `no rank has registered ${name}`, { fields: { checkpoint: name } })
    }
    using lease = this.#store.has(name) ? this.#store.lease(name) : NO_LEASE
    const epoch = await this.#rendezvous.beginEpoch({ timeoutMs, signal: outer, ...(receivers && { ranks: receivers }) })
    this.#metrics.began(epoch.id)
    const signal = anySignal(outer, epoch.signal)
    const fail = once((thrown) => this.#failEpoch(epoch, name, thrown, progress.phase, outer))
    let ranks: readonly number[] = []
    try {
      const { preferred } = this.#device
      const report = await runUpdate(
        {
          rendezvous: this.#rendezvous,
          device: this.#device,
          resources: this.#resources,
          plans: this.#plans,
          staged: broadcast(),
          direct: this.#direct,
          engine,
          strategy,
          manifest,
          segments: lease.segments,
          ...(strategy.name === 'p2p' && { pull: await this.#pull(name) }),
          reach: () => this.#pull(name),
          socketDir: this.#directory.path,
          token: this.#token,
          version,
          verify,
          ringLimit: options.ringBytes ?? (await this.#ringLimit()),
          bucketBytes: options.bucketBytes ?? null,
          maxBucketBytes: Math.min(preferred.bucketBytes, this.#limits.bucketBytes ?? Infinity),
          chunkBytes: options.chunkBytes ?? preferred.chunkBytes,
          timeoutMs,
          signal,
          recovery: `${options.retry ?? 0} further attempts, rollback ${options.rollback ?? false}`,
          progress,
          ...(failed && { failed }),
          onBegin: (announcements) => {
            ranks = announcements.map(({ endpoint }) => endpoint.rank)
            this.#engines.said(engine.name, announcements)
          },
          fail,
          onProgress: (loaded, total) => {
            this.activity.progressed(loaded, total)
            options.onProgress?.(loaded, total)
          },
        },
        epoch,
      )
      this.#rendezvous.endEpoch(epoch)
      this.#engines.committed(engine.name, ranks, { checkpoint: name, version, digest: manifest.digest })
      if (!(options.keepAlive ?? this.#keepAlive)) await this.#resources.letGo()
      const { spans: _, ...summary } = report
      this.#log.info(summary, 'updated')
      return { ...report, totalMs: performance.now() - started }
    } catch (thrown) {
      const error = await fail(thrown)
      await this.#resources.release()
      await this.#direct.drop()
      // Where the failure began its own error is thrown, elsewhere the abort that carries it.
      const abort: unknown = epoch.signal.reason
      const reported = CkptError.is(abort) && abort.fields.rank !== this.rank ? abort : error
      const dirty = this.#engines.failed(engine.name, ranks, this.rank, progress, reported)
      throw dirty.length > 0 ? reported.with({ dirty }) : reported
    }
  }

  /**
   * Every rank's timeline of the same update, ascending by rank, for {@link writeTrace}; all ranks call it with their own report.
   * Large clusters join neighbouring spans, so that the ranks together send no more than 200,000.
   */
  async gatherTimelines(report: UpdateReport, options: CallOptions = {}): Promise<Timeline[]> {
    this.#assertOpen()
    const timeline = timelineOf(report, { maxSpans: Math.floor(GATHERED_SPANS / this.worldSize) })
    return this.#rendezvous.allGather('timelines', timeline, { timeoutMs: this.#timeoutMs, ...options })
  }

  async #pull(checkpoint: string): Promise<NonNullable<UpdateRun['pull']>> {
    return {
      checkpoint,
      access: this.#metas.access(checkpoint),
      endpoints: (await this.#serving.endpoints()).map(({ endpoint }) => endpoint),
      host: this.#device.host,
      joining: this.#metas.isForeign(checkpoint),
    }
  }

  /** Tells every rank; resolves to the error that this rank reports. */
  async #failEpoch(
    epoch: Epoch,
    checkpoint: string,
    thrown: unknown,
    phase: UpdatePhase,
    outer: AbortSignal,
  ): Promise<CkptError> {
    const error = CkptError.from(thrown, 'UPDATE_FAILED').with({ rank: this.rank, checkpoint, epoch: epoch.id, phase })
    if (error.code === 'ABORTED' && !outer.aborted) await aborted(epoch.signal, ORIGIN_GRACE_MS)
    // The rank where it began logs it; the others only pass it on.
    if (!epoch.signal.aborted) this.#log.error({ err: error, checkpoint, epoch: epoch.id }, 'update failed')
    this.#rendezvous.abortEpoch(epoch, error)
    return error
  }

  async #ringLimit(): Promise<number> {
    const { free } = await this.#device.memory()
    return Math.floor(free * (this.#limits.fraction ?? DEFAULT_FRACTION))
  }

  /** This rank's numbers in the text format of Prometheus; docs/operations.md says what they mean. */
  metrics(): Promise<string> {
    return this.#metrics.text()
  }

  /** The media type of {@link ParameterServer.metrics}. */
  get metricsContentType(): string {
    return this.#metrics.contentType
  }

  /** Tells the metrics what the last update could have taken at least, in milliseconds, where that was measured. */
  noteLimit(report: Pick<UpdateReport, 'totalMs'>, limitMs: number): void {
    this.#metrics.limited(limitMs / 1000, report.totalMs / limitMs)
  }

  /** Whether this rank can take an update, and what it knows of engines that need one. */
  health(): Health {
    const { lost } = this.#rendezvous
    const hindrances = [
      ...(this.#closed ? ['closed'] : this.#draining ? ['draining'] : []),
      ...(lost && !this.#closed ? [`membership lost: ${lost.message}`] : []),
    ]
    const state = this.#closed
      ? 'closed'
      : this.#draining
        ? 'draining'
        : lost
          ? 'not ready'
          : this.#updating
            ? 'updating'
            : 'ready'
    const dirty = this.engineStates().flatMap((worker) => (worker.dirty ? worker.rank : []))
    return { rank: this.rank, worldSize: this.worldSize, state, hindrances, dirty }
  }

  /**
   * Takes no further checkpoints and updates, lets a running update end (for `timeoutMs` at most, default 30,000), and closes: what to do on
   * SIGTERM.
   */
  async drain(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    this.#draining = true
    const running = this.#updating
    if (running) {
      const { timeoutMs = DEFAULT_DRAIN_MS } = options
      this.#log.info({ timeoutMs }, 'draining: the running update may end')
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

  /** Stops a running update, leaves the other ranks and gives everything back. Calling it again waits for the same end. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#closing.abort(new CkptError('ABORTED', `rank ${this.rank} is closing`, { fields: { rank: this.rank } }))
    await this.#updating
    const errors: unknown[] = []
    const steps: (() => Promise<void> | void)[] = [
      () => this.#metricsServer?.close(),
      () => this.#resources.release(),
      () => this.#serving.end(),
      () => this.#direct.drop(),
      () => this.#store.close(),
      () => (this.#ownsRendezvous ? this.#rendezvous.close() : undefined),
      () => (this.#ownsDevice ? this.#device.close() : undefined),
      () => this.#directory.close(),
    ]
    for (const step of steps) {
      try {
        await step()
      } catch (error) {
        errors.push(error)
      }
    }
    if (errors.length > 0) throw CkptError.from(errors[0], 'NATIVE_FAILURE', 'closing')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
