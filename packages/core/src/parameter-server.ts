import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { broadcast } from '@ckpt/broadcast'
import {
  CkptError,
  type CallOptions,
  type Device,
  type EngineAdapter,
  type Epoch,
  type Manifest,
  type RankAccess,
  type Rendezvous,
  type Strategy,
} from '@ckpt/contract'
import { CheckpointStore, type CheckpointSource, type Lease, type RegisterOptions } from '@ckpt/memory'
import { encodeRankMetas, fetchPublished, joinRendezvous, rendezvousOptionsFromEnv, type FetchOptions } from '@ckpt/rendezvous'
import { createHostDevice } from '@ckpt/transport'
import { pino, type Logger } from 'pino'
import { gatherManifest } from './gather.ts'
import { tensorCount } from './manifest.ts'
import { decodeMetas, encodeMetas, readMetas, writeMetas, type Metas } from './metas-file.ts'
import { memoryLimits, type MemoryLimits, type ParameterServerOptions } from './options.ts'
import { serve } from './p2p/endpoints.ts'
import { Serving } from './p2p/serving.ts'
import type { UpdateReport } from './report.ts'
import { RuntimeDir } from './runtime-dir.ts'
import { timelineOf, type Timeline } from './timeline.ts'
import { PlanCache } from './update/plan-cache.ts'
import { UpdateResources } from './update/resources.ts'
import { runUpdate, type UpdateRun } from './update/update.ts'

const DEFAULT_TIMEOUT_MS = 120_000
/** Devices pass an abort on faster than the rendezvous: this long a rank waits for the error it began with before it reports its own. */
const ORIGIN_GRACE_MS = 1000
/** The part of the free memory a ring may take where nothing else is said: the engine's own needs come first. */
const DEFAULT_FRACTION = 0.5
/** Spans that all ranks together send each other for a trace: a few MiB, whatever the size of the cluster. */
const GATHERED_SPANS = 200_000

export interface GatherMetasOptions extends CallOptions {
  /** Compute every tensor's digest first (once a registration), so that updates can be verified by them (default false). */
  readonly digests?: boolean
}

export interface UpdateOptions extends CallOptions {
  /** How the inference engine's workers are reached. */
  readonly engine: EngineAdapter
  /** Default: broadcast to all ranks. */
  readonly strategy?: Strategy
  /** What the engine reports as its version afterwards (default: the checkpoint's name). */
  readonly version?: string
  /** Send a digest with every tensor, which the worker compares before loading it (default true). */
  readonly verify?: boolean
  /** Most memory the ring may take, in bytes (default: half the free memory, or `PS_MEM_FRACTION` of it). */
  readonly ringBytes?: number
  /** Preferred bucket size in bytes (default: chosen from the ring; at most `PS_MAX_BUCKET_SIZE_GB`). */
  readonly bucketBytes?: number
  /** Size of what the stages overlap, in bytes. */
  readonly chunkBytes?: number
  /** Keep ring and collective after this update (default: as the parameter server was made). */
  readonly keepAlive?: boolean
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

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
  readonly #manifests = new Map<string, Manifest>()
  /** How the ranks of each manifest are read from. */
  readonly #access = new Map<string, readonly RankAccess[]>()
  /** Manifests that were loaded: of another world than this rank's. */
  readonly #foreign = new Set<string>()
  readonly #serving: Serving
  readonly #directory = new RuntimeDir()
  readonly #token = randomBytes(24).toString('base64url')
  readonly #log: Logger
  readonly #timeoutMs: number
  readonly #keepAlive: boolean
  readonly #limits: MemoryLimits
  readonly #closing = new AbortController()
  #updating: Promise<unknown> | undefined
  #closed: Promise<void> | undefined

  private constructor(rendezvous: Rendezvous, device: Device, options: ParameterServerOptions, limits: MemoryLimits) {
    this.#rendezvous = rendezvous
    this.#ownsRendezvous = typeof options.rendezvous !== 'object'
    this.#device = device
    this.#ownsDevice = options.device === undefined
    const { readDevice } = device
    this.#store = new CheckpointStore(
      device.host,
      readDevice ? { reader: { readDevice: (request) => readDevice.call(device, request) } } : {},
    )
    this.#resources = new UpdateResources(device)
    const note = (error: CkptError) => this.#log.warn({ err: error }, 'an endpoint cannot serve')
    this.#serving = new Serving(async () => {
      if (options.serve === false) return []
      const { rendezvous: met } = options
      const meetingPoint = typeof met === 'string' ? met : rendezvousOptionsFromEnv(process.env).address
      return serve(options.serve ?? {}, process.env, meetingPoint, note)
    }, note)
    this.#log = (options.logger ?? pino({ level: 'silent' })).child({ rank: rendezvous.rank })
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS
    this.#keepAlive = options.keepAlive ?? false
    this.#limits = limits
  }

  /**
   * Joins the other ranks. @throws CkptError `INVALID_ARGUMENT` naming the option or variable, `RANK_MISSING`,
   * `RENDEZVOUS_REJECTED`, `ADDON_UNAVAILABLE`.
   */
  static async create(options: ParameterServerOptions = {}, call: CallOptions = {}): Promise<ParameterServer> {
    const limits = memoryLimits(process.env)
    let rendezvous: Rendezvous
    if (typeof options.rendezvous === 'object') rendezvous = options.rendezvous
    else {
      rendezvous = await joinRendezvous({
        ...rendezvousOptionsFromEnv(process.env),
        ...(options.rank !== undefined && { rank: options.rank }),
        ...(options.worldSize !== undefined && { worldSize: options.worldSize }),
        ...(options.rendezvous !== undefined && { address: options.rendezvous }),
        ...(options.token !== undefined && { token: options.token }),
        ...(options.heartbeatMs !== undefined && { heartbeatMs: options.heartbeatMs }),
        ...(options.heartbeatTimeoutMs !== undefined && { heartbeatTimeoutMs: options.heartbeatTimeoutMs }),
        timeoutMs: call.timeoutMs ?? options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
        ...(call.signal && { signal: call.signal }),
      })
    }
    try {
      const threads = options.threads !== undefined ? { threads: options.threads } : {}
      const device = options.device ?? (await createHostDevice({ rank: rendezvous.rank, ...threads }))
      return new ParameterServer(rendezvous, device, options, limits)
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
   * Reads a checkpoint into host memory under `name`. A failed registration changes nothing.
   *
   * @throws CkptError `CHECKPOINT_EXISTS`, `CHECKPOINT_MALFORMED` and `CHECKPOINT_UNREADABLE` naming the file, or the trainer's
   * socket and the tensor, `OUT_OF_MEMORY`, `UNSUPPORTED` for tensors on GPUs that the rank's device cannot read.
   */
  async registerCheckpoint(name: string, source: CheckpointSource, options: RegisterOptions = {}): Promise<void> {
    this.#assertOpen()
    const started = performance.now()
    await this.#store.register(name, source, options)
    this.#manifests.delete(name)
    const held = this.#store.metas(name)
    this.#encode(name, held, false) // now, so that gathering only sends
    const { tensors, segments } = held
    const bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0)
    this.#log.info({ checkpoint: name, tensors: tensors.count, bytes, ms: performance.now() - started }, 'registered')
  }

  /** Gives the checkpoint's memory back. @throws CkptError `CHECKPOINT_UNKNOWN`, `CHECKPOINT_IN_USE` unless forced. */
  unregisterCheckpoint(name: string, options: { readonly force?: boolean } = {}): void {
    this.#store.unregister(name, options)
    this.#serving.close(name)
    this.#manifests.delete(name)
    this.#encoded.delete(name)
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
    const known = this.#store.has(name)
    if (known && digests) await this.#store.computeDigests(name)
    const held = known ? this.#store.metas(name) : { segments: [], tensors: EMPTY_TABLE }
    const blob = this.#encode(name, held, digests)
    const before = this.#manifests.get(name)
    const wait = { timeoutMs: this.#timeoutMs, ...call }
    const manifest = await gatherManifest(this.#rendezvous, name, blob, before, wait)
    const points = known ? await this.#serve(name) : []
    this.#access.set(name, await this.#rendezvous.allGather<RankAccess>(`access/${name}`, { rank: this.rank, points }, wait))
    this.#manifests.set(name, manifest)
    this.#foreign.delete(name)
    return manifest
  }

  /** Opens what this rank holds to readers. */
  async #serve(name: string): Promise<RankAccess['points']> {
    using lease = this.#store.lease(name)
    const { segments } = this.#store.metas(name)
    return await this.#serving.serve(name, segments, segments, lease.segments)
  }

  readonly #encoded = new Map<string, { held: object; digests: boolean; blob: ReturnType<typeof encodeRankMetas> }>()

  #encode(name: string, held: ReturnType<CheckpointStore['metas']>, digests: boolean): ReturnType<typeof encodeRankMetas> {
    const cached = this.#encoded.get(name)
    if (cached?.held === held.tensors && cached.digests === digests) return cached.blob
    const { digests: computed, ...columns } = held.tensors
    const tensors = digests && computed ? { ...columns, digests: computed } : columns
    const blob = encodeRankMetas({
      rank: this.rank,
      host: hostname(),
      deviceUuid: this.#device.uuid,
      segments: held.segments,
      tensors,
    })
    this.#encoded.set(name, { held: held.tensors, digests, blob })
    return blob
  }

  /** The manifest that was last gathered or loaded. @throws CkptError `CHECKPOINT_UNKNOWN` when there is none. */
  getMetas(name: string): Manifest {
    const manifest = this.#manifests.get(name)
    if (manifest) return manifest
    throw new CkptError('CHECKPOINT_UNKNOWN', `no metas of ${name}: call gatherMetas or loadMetas first`, {
      fields: { checkpoint: name },
    })
  }

  /** Writes the gathered metas to a file, from which a new instance can join. */
  async saveMetas(name: string, path: string): Promise<void> {
    await writeMetas(path, { manifest: this.getMetas(name), access: this.#access.get(name) ?? [] })
  }

  /**
   * Takes metas from a file that {@link ParameterServer.saveMetas} wrote, of another world: ranks of this one can then pull that
   * checkpoint by a p2p update. @throws CkptError `METAS_MALFORMED`.
   */
  async loadMetas(path: string): Promise<Manifest> {
    return this.#adopt(await readMetas(path))
  }

  /**
   * Leaves the gathered metas with the coordinator, from where a new instance that knows the run's token can {@link
   * ParameterServer.fetchMetas}. One rank calls it, again after each registration.
   */
  publishMetas(name: string): void {
    const text = encodeMetas({ manifest: this.getMetas(name), access: this.#access.get(name) ?? [] })
    this.#rendezvous.publish(publishedKey(name), Buffer.from(text))
  }

  /**
   * Takes the metas that another world's coordinator was left with, as {@link ParameterServer.loadMetas} does from a file.
   *
   * @throws CkptError `CHECKPOINT_UNKNOWN` where nothing was published, `RENDEZVOUS_REJECTED`, `RANK_MISSING`, `METAS_MALFORMED`.
   */
  async fetchMetas(name: string, from: FetchOptions): Promise<Manifest> {
    const payload = await fetchPublished(publishedKey(name), { timeoutMs: this.#timeoutMs, ...from })
    if (payload === undefined) {
      throw new CkptError('CHECKPOINT_UNKNOWN', `no metas of ${name} were published at ${from.address}`, {
        fields: { checkpoint: name, peer: from.address },
      })
    }
    return this.#adopt(decodeMetas(Buffer.from(payload).toString(), `metas of ${from.address}`, true))
  }

  #adopt({ manifest, access }: Metas): Manifest {
    this.#manifests.set(manifest.checkpoint, manifest)
    this.#access.set(manifest.checkpoint, access)
    this.#foreign.add(manifest.checkpoint)
    return manifest
  }

  /**
   * Moves the checkpoint into the engine's workers; all ranks call it with the same options. Gathers metas first where this was
   * not done.
   *
   * @throws CkptError of whichever rank failed first, on every rank; on the others wrapped in `ABORTED` with its cause.
   */
  async update(name: string, options: UpdateOptions): Promise<UpdateReport> {
    this.#assertOpen()
    if (this.#updating) throw new CkptError('INVALID_STATE', 'an update is running on this rank already')
    const running = this.#update(name, options)
    this.#updating = running.catch(() => undefined)
    try {
      return await running
    } finally {
      this.#updating = undefined
    }
  }

  async #update(name: string, options: UpdateOptions): Promise<UpdateReport> {
    const { verify = true, timeoutMs = this.#timeoutMs, strategy = broadcast() } = options
    const started = performance.now()
    const outer = anySignal(this.#closing.signal, options.signal)
    const { ranks } = strategy
    if (ranks && !ranks.includes(this.rank)) {
      throw new CkptError('INVALID_ARGUMENT', `rank ${this.rank} is not among the ranks ${ranks.join(', ')} that receive`, {
        fields: { field: 'ranks', ranks },
      })
    }
    // Where all take part, always gathered anew: another rank may have registered again, and what has not changed is not sent again.
    if (!ranks) await this.gatherMetas(name, { digests: verify, timeoutMs, signal: outer })
    const manifest = this.getMetas(name)
    if (tensorCount(manifest) === 0) {
      throw new CkptError('CHECKPOINT_UNKNOWN', `no rank has registered ${name}`, { fields: { checkpoint: name } })
    }
    using lease = this.#store.has(name) ? this.#store.lease(name) : NO_LEASE
    const epoch = await this.#rendezvous.beginEpoch({ timeoutMs, signal: outer, ...(ranks && { ranks }) })
    const signal = anySignal(outer, epoch.signal)
    const fail = once((thrown) => this.#failEpoch(epoch, name, thrown, outer))
    try {
      const { preferred } = this.#device
      const report = await runUpdate(
        {
          rendezvous: this.#rendezvous,
          device: this.#device,
          resources: this.#resources,
          plans: this.#plans,
          engine: options.engine,
          strategy,
          manifest,
          segments: lease.segments,
          ...(strategy.name === 'p2p' && { pull: await this.#pull(name) }),
          socketDir: this.#directory.path,
          token: this.#token,
          version: options.version ?? name,
          verify,
          ringLimit: options.ringBytes ?? (await this.#ringLimit()),
          bucketBytes: options.bucketBytes ?? null,
          maxBucketBytes: Math.min(preferred.bucketBytes, this.#limits.bucketBytes ?? Infinity),
          chunkBytes: options.chunkBytes ?? preferred.chunkBytes,
          timeoutMs,
          signal,
          fail,
          ...(options.onProgress && { onProgress: options.onProgress }),
        },
        epoch,
      )
      this.#rendezvous.endEpoch(epoch)
      if (!(options.keepAlive ?? this.#keepAlive)) await this.#resources.letGo()
      const { spans: _, ...summary } = report
      this.#log.info(summary, 'updated')
      return { ...report, totalMs: performance.now() - started }
    } catch (thrown) {
      const error = await fail(thrown)
      await this.#resources.release()
      // Where the failure began its own error is thrown, elsewhere the abort that carries it.
      const abort: unknown = epoch.signal.reason
      throw CkptError.is(abort) && abort.fields.rank !== this.rank ? abort : error
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
      access: this.#access.get(checkpoint) ?? [],
      endpoints: (await this.#serving.endpoints()).map(({ endpoint }) => endpoint),
      host: this.#device.host,
      joining: this.#foreign.has(checkpoint),
    }
  }

  /** Tells every rank; resolves to the error that this rank reports. */
  async #failEpoch(epoch: Epoch, checkpoint: string, thrown: unknown, outer: AbortSignal): Promise<CkptError> {
    const error = CkptError.from(thrown, 'UPDATE_FAILED').with({ rank: this.rank, checkpoint, epoch: epoch.id })
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
      () => this.#resources.release(),
      () => this.#serving.end(),
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

function publishedKey(name: string): string {
  return `published-metas/${name}`
}

const EMPTY_TABLE = {
  count: 0,
  names: {
    length: 0,
    at: () => {
      throw new RangeError('no tensors')
    },
  },
  dtypes: new Uint8Array(0),
  shapeIds: new Uint32Array(0),
  shapes: [],
  segments: new Uint32Array(0),
  offsets: new Float64Array(0),
  bytes: new Float64Array(0),
}

const NO_LEASE: Pick<Lease, 'segments'> & Disposable = { segments: [], [Symbol.dispose]: () => undefined }

/** `work`, done at its first call only; later calls get the first one's result. */
function once<A, R>(work: (argument: A) => R): (argument: A) => R {
  let result: { readonly value: R } | undefined
  return (argument) => (result ??= { value: work(argument) }).value
}

/** Resolves when the signal is aborted, or after `timeoutMs`. */
async function aborted(signal: AbortSignal, timeoutMs: number): Promise<void> {
  if (signal.aborted) return
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, timeoutMs)
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true })
  })
}

function anySignal(...signals: (AbortSignal | undefined)[]): AbortSignal {
  return AbortSignal.any(signals.filter((signal) => signal !== undefined))
}
