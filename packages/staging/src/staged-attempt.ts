import {
  canRecord,
  OLDEST_RECORDING_PROTOCOL,
  type CheckedWorker,
  type Manifest,
  type OutcomeSpans,
  type PlannedUpdate,
  type PreparedTensors,
  type PullReport,
  type PullStats,
  type Recording,
  type RecordingSession,
  type Ring,
  type StagedContext,
  type StagedResult,
  type StagedWay,
  type UpdateAttempt,
  type UpdateContext,
  type UpdateOutcome,
} from '@ckpt/contract'
import { Recordings } from './recordings.ts'
import { remainder } from './remainder.ts'
import { planStaged, stagedContext } from './staged-context.ts'

/** Special options of a staged attempt. */
export interface StagedOptions {
  /** Record the engine's loader. */
  readonly record?: boolean
  /** Id of the recording by which the worker copies the bytes, instead of giving them to the engine's loader. */
  readonly replay?: string
  /** Names of tensors that the engine's own loader loads over the replayed parameters: it must change nothing. */
  readonly check?: readonly string[]
}

/** Sends everything through the ring, into the engine's own loader or as recorded. */
export class StagedAttempt implements UpdateAttempt {
  readonly usesRing = true
  /** Result of recording the loader, if it was recorded. */
  recorded: string | undefined
  /** Number of tensors that the worker copied by its recording. */
  replayed = 0
  /** True if the engine's loader was compared with the replayed parameters. */
  checked = false
  readonly #context: UpdateContext
  readonly #way: StagedWay
  readonly #options: StagedOptions
  readonly #recordings: Recordings
  #manifest: Manifest
  #whole: PlannedUpdate | undefined
  #planned: PlannedUpdate | undefined
  #staged: StagedContext | undefined
  #result: StagedResult | undefined
  /** True if the worker records its loader. */
  #record = false
  /** The new recording. */
  #fresh: Recording | undefined
  /** Tensors that the worker compares in the ring, if not all. */
  #compared: ReadonlySet<string> | undefined

  constructor(context: UpdateContext, way: StagedWay, options: StagedOptions = {}) {
    this.#context = context
    this.#way = way
    this.#manifest = context.manifest
    this.#recordings = context.kept.of(Recordings)
    // The remainder of a failed attempt is not all that the engine's loader does.
    this.#options = context.failed ? { ...options, record: false } : options
  }

  async plan(): Promise<void> {
    const { session, signal, failed, exchanges } = this.#context
    this.#whole = this.#planned = planStaged(this.#context, this.#way, this.#manifest)
    if (failed === undefined) return
    const { state } = await session.greeted(signal)
    this.#manifest = await remainder(exchanges.gather, this.#manifest, failed, state)
    this.#planned = planStaged(this.#context, this.#way, this.#manifest)
  }

  async attach(): Promise<void> {
    const { session, signal, onProgress, failed } = this.#context
    const { plan } = this.#planned!
    this.#record = canRecord(session) && (await this.#records(session))
    if (canRecord(session)) this.#compared = await this.#comparedInRing(session)
    const totals = { tensors: plan.items.count, bytes: plan.totalBytes }
    const attach = (ring: Ring) => {
      if (canRecord(session)) void session.attach(ring.handle, totals, signal, this.#record)
      else void session.attach(ring.handle, totals, signal)
    }
    this.#staged = await stagedContext(this.#context, this.#manifest, this.#planned!, attach, this.#compared)
    // Tensors transferred by an earlier attempt are part of the total.
    const kept = this.#whole!.plan.totalBytes - plan.totalBytes
    if (onProgress && kept > 0)
      this.#staged = { ...this.#staged, onProgress: (loaded, total) => onProgress(kept + loaded, kept + total) }
    const { replay, check } = this.#options
    if (replay === undefined || !canRecord(session)) return
    // The remainder of a failed attempt may lack some of the tensors to check.
    const checked = failed === undefined ? check : undefined
    this.replayed = await session.replay(replay, checked)
    this.checked = checked !== undefined && this.replayed > 0
  }

  async execute(): Promise<void> {
    this.#result = await this.#way.run(this.#staged!)
  }

  async release(): Promise<void> {
    const { session, manifest, signal } = this.#context
    await session.release()
    if (!this.#record || !canRecord(session)) return
    const recording = await session.routes()
    const refused = typeof recording === 'string' ? recording : this.#recordings.learn(recording, manifest)
    if (typeof recording === 'string' || refused !== undefined) this.recorded = refused
    else {
      this.#fresh = recording
      const { routes, opaque } = recording
      this.recorded = `recorded: ${routes.length} routes, ${opaque.length} opaque tensors`
    }
    this.#recordings.countRecording(await session.greeted(signal), this.recorded ?? '')
  }

  async worker(): Promise<CheckedWorker | undefined> {
    const { session, manifest, signal } = this.#context
    if (!canRecord(session)) return undefined
    const recording = this.#fresh ?? (this.#record ? undefined : await this.#recordings.usable(session, manifest, signal))
    const required = this.#options.replay !== undefined || this.#compared !== undefined
    return recording && { session, recording, required }
  }

  /** Undefined, because everything came through the ring. */
  staged(): undefined {
    return undefined
  }

  vote(): PreparedTensors {
    const { manifestDigest, totalBytes, items } = this.#planned!.plan
    return { manifestDigest, tensors: items.count, bytes: totalBytes }
  }

  distrust(recording: Recording): void {
    this.#recordings.distrust(recording)
  }

  outcome(): UpdateOutcome {
    const { plan } = this.#planned!
    const whole = this.#whole!.plan
    const { stats, pull, reloadMs } = this.#result!
    return {
      strategy: this.#way.name,
      mode: plan.mode,
      modeReason: plan.modeReason,
      ...(stats.order && { order: stats.order }),
      ...(pull && { pull: reportOf(pull) }),
      bytes: whole.totalBytes,
      tensors: this.#context.manifest.ranks.reduce((sum, { tensors }) => sum + tensors.count, 0),
      ...(plan !== whole && {
        kept: { tensors: whole.items.count - plan.items.count, bytes: whole.totalBytes - plan.totalBytes },
      }),
      buckets: plan.buckets.count,
      ringBytes: plan.ringBytes,
      bucketBytes: plan.bucketBytes,
      h2dBytes: stats.h2dBytes,
      broadcastBytes: stats.broadcastBytes,
      stages: { h2dMs: stats.h2dMs, broadcastMs: stats.broadcastMs, reloadMs, idleMs: stats.idleMs },
      spans: stagedSpans(this.#result!),
    }
  }

  /** Verifying parameters requires a recording: if it was requested, one is made. */
  async #records(session: RecordingSession): Promise<boolean> {
    const { verify, failed, manifest, signal } = this.#context
    const { record = false } = this.#options
    if (record || !verify.record || failed) return record
    const { protocol } = await session.greeted(signal)
    if (protocol < OLDEST_RECORDING_PROTOCOL) return false
    return (await this.#recordings.usable(session, manifest, signal)) === undefined
  }

  /**
   * Returns the tensors that the worker must compare in the ring. If its recording shows what it keeps of the others, their
   * bytes are read back from its parameters, which is a stronger check, and reading them twice takes time.
   */
  async #comparedInRing(session: RecordingSession): Promise<ReadonlySet<string> | undefined> {
    const { verify, failed, manifest, signal } = this.#context
    if (verify.level !== 'bytes' || this.#record || failed) return undefined
    const recording = await this.#recordings.usable(session, manifest, signal)
    return recording && verify.comparedInRing(recording)
  }
}

function reportOf({ spans: _, ...report }: PullStats): PullReport {
  return report
}

/** Spans of the bytes that went through a ring. */
export function stagedSpans({ stats, reloadSpans, pull, startedAt: zero }: StagedResult): OutcomeSpans[] {
  const of = (stage: number, spans: Float64Array): Float64Array => {
    const rows = new Float64Array((spans.length / 3) * 4)
    for (let i = 0, at = 0; i < spans.length; i += 3, at += 4) {
      rows[at] = stage
      rows.set(spans.subarray(i, i + 3), at + 1)
    }
    return rows
  }
  return [{ zero, rows: stats.spans }, { zero, rows: of(2, reloadSpans) }, ...(pull ? [{ zero, rows: of(3, pull.spans) }] : [])]
}
