import { randomBytes } from 'node:crypto'
import { broadcastBuckets } from '@ckpt/broadcast'
import {
  CkptError,
  SteadyProgress,
  type ByteProgress,
  type Device,
  type Manifest,
  type Reach,
  type Rendezvous,
  type ReservedMemory,
  type Waiting,
} from '@ckpt/contract'
import { auto } from '@ckpt/direct'
import type { CheckpointStore } from '@ckpt/memory'
import { joiningBuckets, openingOf, reachRank, type Serving } from '@ckpt/p2p'
import type { Logger } from 'pino'
import type { Activity } from '../activity.ts'
import type { PrepareOptions, PrepareReport, UpdateOptions } from '../call-options.ts'
import { ParameterCheck } from '../verify/parameter-check.ts'
import { verificationAsked } from '../verify/verification.ts'
import { EngineStates } from '../engine-states.ts'
import type { KnownMetas } from '../known-metas.ts'
import { tensorCount } from '../manifest.ts'
import { NO_LEASE } from '../empty-checkpoint.ts'
import { Nearness } from '../near/nearness.ts'
import type { RankObserver } from '../observers.ts'
import { describeUpdate, inSpan } from '../spans.ts'
import type { MemoryLimits } from '../options.ts'
import type { UpdateReport } from '../report.ts'
import { RuntimeDir } from '../runtime-dir.ts'
import { anySignal, once } from '@ckpt/utils'
import { UpdateFailures } from './failures.ts'
import { KeptParts } from './kept-parts.ts'
import type { Announcement } from './announcement.ts'
import { UpdateProgress } from './progress.ts'
import { updateWithRecovery, type Attempt } from './recovery.ts'
import { UpdateResources } from './resources.ts'
import type { UpdateRun } from './update-run.ts'
import { runPrepare } from './run-prepare.ts'
import { runUpdate } from './run-update.ts'

/** Fraction of the free memory that a ring may use by default: the engine's own needs come first. */
const DEFAULT_FRACTION = 0.5

/** Parts that the updates of a rank work with. */
export interface UpdatesOptions {
  readonly rendezvous: Rendezvous
  readonly device: Device
  readonly store: CheckpointStore
  readonly metas: KnownMetas
  readonly serving: Serving
  readonly activity: Activity
  readonly observer: RankObserver
  readonly log: Logger
  readonly limits: MemoryLimits
  readonly timeoutMs: number
  readonly keepAlive: boolean
  /** Directory for the sockets of workers; closed with everything else. */
  readonly directory: RuntimeDir
  /** Called with waits that last longer than a second. */
  readonly onWaiting: (waiting: Waiting) => void
  /** Aborts a running update. */
  readonly closing: AbortSignal
}

/** Runs one rank's updates: one at a time, observed, with the state kept between them. */
export class Updates {
  readonly #with: UpdatesOptions
  readonly #resources: UpdateResources
  readonly #kept = new KeptParts()
  readonly #check = new ParameterCheck()
  readonly #nearness: Nearness
  #directory: RuntimeDir
  readonly #token = randomBytes(24).toString('base64url')
  /** Known states of the engine workers of all ranks. */
  readonly engines = new EngineStates()
  readonly #failures: UpdateFailures
  #running: Promise<unknown> | undefined

  constructor(options: UpdatesOptions) {
    this.#with = options
    this.#directory = options.directory
    this.#resources = new UpdateResources(options.device)
    this.#nearness = new Nearness(options.device.host)
    const { rendezvous, log } = options
    const own = { resources: this.#resources, kept: this.#kept, engines: this.engines }
    this.#failures = new UpdateFailures({ rendezvous, log, ...own })
  }

  /** Works out what a manifest's digests imply for parameters, for the update of it. @throws CkptError `DIGEST_MISMATCH`. */
  expect(manifest: Manifest): void {
    this.#check.assertConsistent(manifest)
  }

  /** Running update, if any; never rejects. */
  get running(): Promise<unknown> | undefined {
    return this.#running
  }

  /** See `ParameterServer.update`. */
  async run(name: string, options: UpdateOptions): Promise<UpdateReport> {
    if (this.#running) throw new CkptError('INVALID_STATE', 'an update is already running on this rank')
    const { activity } = this.#with
    activity.began(name, options.version ?? name, nameOf(options))
    const running = this.#observed(name, options)
    this.#running = running.catch(() => undefined)
    try {
      const report = await running
      activity.ended(report)
      return report
    } catch (error) {
      activity.failed(CkptError.from(error, 'UPDATE_FAILED'))
      throw error
    } finally {
      this.#running = undefined
    }
  }

  /** See `ParameterServer.prepare`. */
  async prepare(name: string, options: PrepareOptions): Promise<PrepareReport> {
    if (this.#running) throw new CkptError('INVALID_STATE', 'an update is running on this rank')
    const running = this.#prepare(name, options)
    this.#running = running.catch(() => undefined)
    try {
      return await running
    } finally {
      this.#running = undefined
    }
  }

  async #prepare(name: string, options: PrepareOptions): Promise<PrepareReport> {
    const started = performance.now()
    const report = (kept: boolean, reason?: string): PrepareReport => ({
      prepared: reason === undefined,
      kept,
      ...(reason !== undefined && { reason }),
      milliseconds: performance.now() - started,
    })
    const { engine, strategy = auto() } = options
    if (strategy.prepare === undefined) return report(false, `updates by ${strategy.name} have nothing to prepare`)
    if (engine.prepare === undefined) return report(false, `a ${engine.name} engine cannot prepare`)
    const { rendezvous, store } = this.#with
    const { timeoutMs = this.#with.timeoutMs } = options
    const outer = anySignal(this.#with.closing, options.signal)
    const manifest = await this.#manifest(name, options, { timeoutMs, signal: outer })
    using lease = store.has(name) ? store.lease(name) : NO_LEASE
    const epoch = await rendezvous.beginEpoch({ timeoutMs, signal: outer })
    const attempt: Attempt = { checkpoint: name, version: name, progress: new UpdateProgress(false) }
    const fail = once((thrown) => this.#failures.report(epoch, name, thrown, attempt.progress.phase, outer))
    let ranks: readonly number[] = []
    try {
      const signal = anySignal(outer, epoch.signal)
      const own = strategy.isPrepared?.(this.#kept, manifest, lease.segments) ?? false
      const ready = await rendezvous.allGather('prepare/ready', own, { epoch: epoch.id, timeoutMs, signal })
      const kept = ready.every(Boolean)
      let reason: string | undefined
      if (!kept) {
        const reserve = (segmentBytes: readonly number[]) => store.reserve(name, segmentBytes)
        const held = { manifest, segments: lease.segments, reserve }
        const run = await this.#run(attempt, options, held, signal)
        const onBegin = (announced: readonly Announcement[]) => (ranks = announced.map(({ endpoint }) => endpoint.rank))
        reason = await runPrepare({ ...run, strategy, events: { onBegin, fail, onWaiting: this.#with.onWaiting } }, epoch)
      }
      rendezvous.endEpoch(epoch)
      await this.#kept.idle()
      return report(kept, reason)
    } catch (thrown) {
      throw await this.#failures.release(await fail(thrown), epoch, engine.name, ranks, attempt, outer)
    }
  }

  /** Releases what strategies prepared, because it uses memory of checkpoints. */
  releasePrepared(): Promise<void> {
    return this.#kept.release()
  }

  /** Returns the functions that release everything, in order; no update may be running. */
  closing(): (() => Promise<void> | void)[] {
    return [
      () => this.#resources.release(),
      () => this.#kept.release(),
      () => this.#nearness.close(),
      () => this.#directory.close(),
    ]
  }

  /** Runs the update, with its span and metrics. */
  #observed(name: string, options: UpdateOptions): Promise<UpdateReport> {
    const { rendezvous, observer } = this.#with
    const attributes = { 'ckpt.checkpoint': name, 'ckpt.rank': rendezvous.rank, 'ckpt.engine': options.engine.name }
    return inSpan('ckpt.update', attributes, async (span) => {
      try {
        const report = await this.#update(name, options)
        observer.updated(options.engine.name, report)
        describeUpdate(span, report)
        return report
      } catch (error) {
        observer.failed(options.engine.name, nameOf(options), CkptError.from(error, 'UPDATE_FAILED'))
        throw error
      }
    })
  }

  async #update(name: string, options: UpdateOptions): Promise<UpdateReport> {
    const { engine, retry = 0, rollback = false, timeoutMs = this.#with.timeoutMs } = options
    if (!Number.isInteger(retry) || retry < 0) {
      throw new CkptError('INVALID_ARGUMENT', `retry: ${retry} is not a number of attempts (an integer from 0)`, {
        fields: { field: 'retry' },
      })
    }
    const signal = anySignal(this.#with.closing, options.signal)
    const steady = new SteadyProgress((loaded, total) => {
      this.#with.activity.progressed(loaded, total)
      options.onProgress?.(loaded, total)
    })
    const report = await updateWithRecovery(
      { checkpoint: name, version: options.version ?? name },
      {
        rendezvous: this.#with.rendezvous,
        retry,
        rollback,
        ...(options.strategy?.ranks && { ranks: options.strategy.ranks }),
        timeoutMs,
        signal,
        attempt: (attempt) => this.#attempt(attempt, options, signal, steady.report),
        previous: () => this.engines.previous(engine.name, (checkpoint) => this.#with.metas.find(checkpoint)?.digest),
        onRetry: ({ code }, attempt) => {
          this.#with.observer.retried()
          this.#with.log.warn({ code, attempt, checkpoint: name }, 'retrying the update')
        },
      },
    )
    steady.finish()
    return report
  }

  async #attempt(
    attempt: Attempt,
    options: UpdateOptions,
    outer: AbortSignal,
    onProgress: ByteProgress,
  ): Promise<UpdateReport> {
    const { checkpoint: name, version } = attempt
    const { engine, timeoutMs = this.#with.timeoutMs, strategy = auto() } = options
    const { rendezvous, store, observer, log } = this.#with
    const started = performance.now()
    const manifest = await this.#manifest(name, options, { timeoutMs, signal: outer })
    using lease = store.has(name) ? store.lease(name) : NO_LEASE
    const epoch = await rendezvous.beginEpoch({
      timeoutMs,
      signal: outer,
      ...(strategy.ranks && { ranks: strategy.ranks }),
    })
    observer.began(epoch.id)
    let ranks: readonly number[] = []
    const reservation = { made: false }
    const reserve = (segmentBytes: readonly number[]): Promise<ReservedMemory> => {
      reservation.made = true
      return store.reserve(name, segmentBytes)
    }
    const fail = once((thrown) => this.#failures.report(epoch, name, thrown, attempt.progress.phase, outer))
    try {
      const held = { manifest, segments: lease.segments, reserve }
      const run = await this.#run(attempt, options, held, anySignal(outer, epoch.signal))
      const report = await runUpdate(
        {
          ...run,
          strategy,
          events: {
            onBegin: (announcements) => {
              ranks = announcements.map(({ endpoint }) => endpoint.rank)
              this.engines.announced(engine.name, announcements)
            },
            fail,
            onWaiting: this.#with.onWaiting,
            ...(!attempt.restoring && { onProgress }),
          },
        },
        epoch,
      )
      rendezvous.endEpoch(epoch)
      await this.#kept.idle()
      if (reservation.made && store.has(name)) this.#keep(name, report)
      this.engines.committed(engine.name, ranks, { checkpoint: name, version, digest: manifest.digest })
      if (!(options.keepAlive ?? this.#with.keepAlive)) await this.#resources.releaseLater()
      const { spans: _, ...summary } = report
      log.info(summary, 'updated')
      return { ...report, totalMs: performance.now() - started }
    } catch (thrown) {
      throw await this.#failures.release(await fail(thrown), epoch, engine.name, ranks, attempt, outer)
    }
  }

  /** Returns the checkpoint's manifest. @throws CkptError `CHECKPOINT_UNKNOWN`, `INVALID_ARGUMENT`, `DIGEST_MISMATCH`. */
  async #manifest(
    name: string,
    { strategy, ...options }: UpdateOptions,
    wait: { readonly timeoutMs: number; readonly signal: AbortSignal },
  ): Promise<Manifest> {
    const { rendezvous, metas, activity } = this.#with
    const receivers = strategy?.ranks
    if (receivers && !receivers.includes(rendezvous.rank)) {
      const text = `rank ${rendezvous.rank} is not among the ranks ${receivers.join(', ')} that receive`
      throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'ranks', ranks: receivers } })
    }
    const verify = verificationAsked(options)
    // If all ranks take part, metas are always gathered again: a rank may have registered again, and unchanged metas are not
    // sent again.
    const manifest = receivers ? metas.get(name) : await metas.gather(name, verify !== 'none', wait)
    if (!receivers) activity.gathered(manifest, metas.access(name))
    if (verify !== 'none') this.#check.assertConsistent(manifest)
    if (tensorCount(manifest) > 0) return manifest
    throw new CkptError('CHECKPOINT_UNKNOWN', `no rank has registered ${name}`, { fields: { checkpoint: name } })
  }

  /** Resolves everything that one attempt needs. */
  async #run(
    { checkpoint: name, version, progress, failed }: Attempt,
    options: UpdateOptions,
    held: Pick<UpdateRun['held'], 'manifest' | 'segments' | 'reserve'>,
    signal: AbortSignal,
  ): Promise<Omit<UpdateRun, 'strategy' | 'events'>> {
    const { rendezvous, device, metas, limits } = this.#with
    const { preferred } = device
    const joining = metas.isForeign(name)
    return {
      rendezvous,
      device,
      engine: options.engine,
      version,
      held: {
        ...held,
        reach: () => this.#reach(name),
        opening: openingOf(this.#with.serving, name),
        joining,
      },
      keep: {
        resources: this.#resources,
        strategies: this.#kept,
        nearness: this.#nearness,
        staged: joining ? joiningBuckets : broadcastBuckets,
      },
      ring: {
        limitBytes: options.ringBytes ?? (await this.#ringLimit()),
        bucketBytes: options.bucketBytes ?? null,
        maxBucketBytes: Math.min(preferred.bucketBytes, limits.bucketBytes ?? Infinity),
        chunkBytes: options.chunkBytes ?? preferred.chunkBytes,
      },
      verify: { level: verificationAsked(options), record: options.verify === 'bytes', check: this.#check },
      worker: { socketDir: await this.#socketDirectory(), token: this.#token },
      timeoutMs: options.timeoutMs ?? this.#with.timeoutMs,
      signal,
      recovery: `${options.retry ?? 0} further attempts, rollback ${options.rollback ?? false}`,
      progress,
      ...(failed && { failed }),
    }
  }

  /** Registers pulled bytes as a checkpoint of this rank. */
  #keep(name: string, { pull }: UpdateReport): void {
    const { metas, store, activity } = this.#with
    metas.keep(name, new Set(pull?.lost.map((source) => source.rank)))
    activity.registered({ name, bytes: pull?.bytes ?? 0, tensors: store.metas(name).tensors.count })
  }

  /** Cleaners of temporary files remove directories that were not used for days: a new one is created then. */
  async #socketDirectory(): Promise<string> {
    if (!this.#directory.isPresent()) {
      this.#directory.close()
      this.#directory = await RuntimeDir.create()
    }
    return this.#directory.path
  }

  /** Returns access to ranks that hold the checkpoint. */
  async #reach(checkpoint: string): Promise<Reach> {
    const access = this.#with.metas.access(checkpoint)
    const endpoints = (await this.#with.serving.endpoints()).map(({ endpoint }) => endpoint)
    const { host } = this.#with.device
    return { access, endpoints, connect: (rank, options) => reachRank({ checkpoint, access, endpoints, host }, rank, options) }
  }

  async #ringLimit(): Promise<number> {
    const { free } = await this.#with.device.memory()
    return Math.floor(free * (this.#with.limits.fraction ?? DEFAULT_FRACTION))
  }
}

function nameOf({ strategy = auto() }: UpdateOptions): string {
  const { name } = strategy
  return name
}
