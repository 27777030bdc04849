import type {
  Epoch,
  Exchange,
  Manifest,
  PullContext,
  Recording,
  Ring,
  StrategyContext,
  StrategyResult,
  TransferPlan,
} from '@ckpt/contract'
import { bucketTensors, pullOf } from '@ckpt/planner'
import type { SpotCheck } from '../direct/state.ts'
import { tensorCount } from '../manifest.ts'
import type { DirectReport } from '../report.ts'
import { checkReport } from './check-report.ts'
import type { PlannedUpdate } from './plan-cache.ts'
import type { CheckedWorker } from '../verify/parameter-check.ts'
import { remainder } from './resume.ts'
import { canRecord, OLDEST_RECORDING_PROTOCOL, type RecordingSession, type UpdateSession } from '@ckpt/worker-link'
import type { UpdateRun } from './run.ts'
import type { vote } from './vote.ts'

/** What a staged update, or the staged part of a direct one, works with. */
export interface Staging {
  readonly run: UpdateRun
  readonly epoch: Epoch
  readonly session: UpdateSession
  readonly ranks: readonly number[]
  /** Whether some rank has lost its ring or collective, so that all make them anew. */
  readonly fresh: boolean
  /** The most that the ring may take. */
  readonly ringBytes: number
  readonly exchange: Exchange
  /** Deadline of every wait, and the ranks that take part where those are not all. */
  readonly wait: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly ranks?: readonly number[] }
}

/** What an update did, for its report. */
export interface Outcome {
  readonly planned?: PlannedUpdate
  /** The plan of everything, where only a part was left to send. */
  readonly whole?: PlannedUpdate
  readonly staged?: StrategyResult
  readonly direct?: DirectReport
  readonly spans?: Float64Array
  readonly stages?: { readonly h2dMs: number; readonly forwardMs: number; readonly h2dBytes: number }
  readonly startedAt: number
  readonly tensors: number
  /** Of the checkpoint. */
  readonly bytes: number
}

/** The plan of all of a manifest's tensors, its ring and its collective. */
export function stage(staging: Staging, manifest: Manifest, ringBytes = staging.ringBytes): PlannedUpdate {
  const { run, ranks } = staging
  const options = {
    ranks,
    ringBytes,
    ...(run.bucketBytes !== null && { preferredBucketBytes: run.bucketBytes }),
    maxBucketBytes: run.maxBucketBytes,
    chunkBytes: run.chunkBytes,
  }
  if (run.pull) return run.plans.p2p(manifest, options, run.pull.joining)
  return run.plans.broadcast(manifest, run.rendezvous.rank, options)
}

/**
 * Makes what a plan needs. `attach` is called with the ring as soon as it is there. The worker gets digests to compare of all tensors, or of
 * those that `compared` names.
 */
export async function contextFor(
  staging: Staging,
  manifest: Manifest,
  planned: PlannedUpdate,
  attach: (ring: Ring) => void,
  compared?: ReadonlySet<string>,
): Promise<StrategyContext> {
  const { run, session, ranks, wait } = staging
  const { rank } = run.rendezvous
  if (staging.fresh) await run.resources.release()
  const ring = await run.resources.ring(planned.plan.ringBytes)
  // The first buckets move while the worker still maps the ring; loading them waits for that.
  attach(ring)
  const collective = await run.resources.collective(ranks, rank, staging.exchange, wait.timeoutMs, wait.signal)
  return {
    rank,
    plan: planned.plan,
    copies: planned.copies,
    tensorsOf: (bucket) => {
      const tensors = bucketTensors(planned.plan, manifest, bucket)
      if (run.verify !== 'none' && compared === undefined) return tensors
      return tensors.map(({ digest, ...tensor }) =>
        digest !== undefined && compared?.has(tensor.name) ? { ...tensor, digest } : tensor,
      )
    },
    ring,
    collective,
    session: run.progress.watch(session),
    segments: run.segments,
    ...(run.pull && { pull: pullContext(run.pull, run.keeper, manifest, planned.plan) }),
    timeoutMs: wait.timeoutMs,
    signal: wait.signal,
    ...(run.onProgress && { onProgress: run.onProgress }),
  }
}

function pullContext(
  pull: NonNullable<UpdateRun['pull']>,
  keeper: UpdateRun['keeper'],
  manifest: Manifest,
  plan: TransferPlan,
): PullContext {
  return {
    ...pull,
    pullOf: (bucket, lost) => pullOf(plan, manifest, bucket, lost),
    ...(keeper && { keep: (own) => keeper.place(plan, manifest, own) }),
  }
}

/** Why an update is staged, and what is made of it. */
interface StagedWhy {
  readonly reason: string
  readonly record: boolean
  readonly replay?: string
  readonly check?: SpotCheck
}

/** Everything through the ring; recorded where the next update could then be direct. */
export class StagedWork {
  readonly #staging: Staging
  readonly #why: StagedWhy
  #manifest: Manifest
  #whole: PlannedUpdate | undefined
  #planned: PlannedUpdate | undefined
  #context: StrategyContext | undefined
  #result: StrategyResult | undefined
  /** True if the worker watches its loader. */
  #record = false
  /** What it saw. */
  #fresh: Recording | undefined
  #recorded: string | undefined
  #replayed = 0
  #check: SpotCheck | undefined
  /** Tensors that the worker compares in the ring, where those are not all. */
  #compared: ReadonlySet<string> | undefined

  constructor(staging: Staging, why: StagedWhy) {
    this.#staging = staging
    this.#manifest = staging.run.manifest
    // What is left of a failed attempt is not all that the engine's loader does.
    this.#why = staging.run.failed ? { ...why, record: false } : why
  }

  async plan(): Promise<void> {
    const { run, epoch, session, wait } = this.#staging
    this.#whole = this.#planned = stage(this.#staging, this.#manifest)
    if (run.failed === undefined) return
    const { state } = await session.greeted(wait.signal)
    this.#manifest = await remainder(run.rendezvous, epoch, run.manifest, run.failed, state, wait)
    this.#planned = stage(this.#staging, this.#manifest)
  }

  /** What this rank votes for. */
  stands(): Parameters<typeof vote>[2] {
    return this.#planned!.plan
  }

  async attach(): Promise<void> {
    const { run, session, wait } = this.#staging
    const { plan } = this.#planned!
    this.#record = canRecord(session) && (await this.#records(session))
    if (canRecord(session)) this.#compared = await this.#comparedInRing(session)
    const totals = { tensors: plan.items.count, bytes: plan.totalBytes }
    const attach = (ring: Ring) => {
      if (canRecord(session)) void session.attach(ring.handle, totals, wait.signal, this.#record)
      else void session.attach(ring.handle, totals, wait.signal)
    }
    this.#context = await contextFor(this.#staging, this.#manifest, this.#planned!, attach, this.#compared)
    // What an earlier attempt brought is part of the whole.
    const kept = this.#whole!.plan.totalBytes - plan.totalBytes
    const { onProgress } = run
    if (onProgress && kept > 0)
      this.#context = { ...this.#context, onProgress: (loaded, total) => onProgress(kept + loaded, kept + total) }
    if (this.#why.replay === undefined || !canRecord(session)) return
    // What is left of a failed attempt need not have all that is to be checked.
    if (run.failed === undefined) this.#check = this.#why.check
    this.#replayed = await session.replay(this.#why.replay, this.#check?.tensors)
  }

  async execute(): Promise<void> {
    const { strategy, staged } = this.#staging.run
    this.#result = await (strategy.name === 'direct' ? staged : strategy).execute(this.#context!)
  }

  /** Verifying parameters takes a recording: where it was asked for, one is made. */
  async #records(session: RecordingSession): Promise<boolean> {
    const { run, wait } = this.#staging
    if (this.#why.record || !run.recordToVerify || run.failed) return this.#why.record
    const { protocol } = await session.greeted(wait.signal)
    if (protocol < OLDEST_RECORDING_PROTOCOL) return false
    return (await run.direct.recordingOf(session, run.manifest, wait.signal)) === undefined
  }

  /**
   * What the worker must compare in the ring, where its recording says what it keeps of all else: those bytes are read from its parameters
   * afterwards, which shows more, and to read them twice takes time.
   */
  async #comparedInRing(session: RecordingSession): Promise<ReadonlySet<string> | undefined> {
    const { run, ranks, wait } = this.#staging
    if (run.verify !== 'bytes' || this.#record || run.failed) return undefined
    const recording = await run.direct.recordingOf(session, run.manifest, wait.signal)
    return recording && run.check.comparedInRing(recording, run.manifest, ranks)
  }

  async release(): Promise<void> {
    const { session, run } = this.#staging
    await session.release()
    if (!this.#record || !canRecord(session)) return
    const recording = await session.routes()
    const refused = typeof recording === 'string' ? recording : run.direct.learn(recording, run.manifest)
    if (typeof recording === 'string' || refused !== undefined) this.#recorded = refused
    else {
      this.#fresh = recording
      const { routes, opaque } = recording
      this.#recorded = `recorded: ${routes.length} routes, ${opaque.length} opaque tensors`
    }
  }

  /** Undefined: everything came through the ring. */
  staged(): undefined {
    return undefined
  }

  async worker(): Promise<CheckedWorker | undefined> {
    const { session, run, wait } = this.#staging
    if (!canRecord(session)) return undefined
    const recording =
      this.#fresh ?? (this.#record ? undefined : await run.direct.recordingOf(session, run.manifest, wait.signal))
    return recording && { session, recording, required: this.#why.replay !== undefined || this.#compared !== undefined }
  }

  outcome(): Outcome {
    const { run } = this.#staging
    const check = checkReport(this.#replayed > 0 ? this.#check : undefined, run.manifest)
    return {
      planned: this.#planned!,
      whole: this.#whole!,
      staged: this.#result!,
      startedAt: this.#result!.startedAt,
      tensors: tensorCount(run.manifest),
      bytes: this.#whole!.plan.totalBytes,
      ...(run.strategy.name === 'direct' && {
        direct: {
          fallback: this.#why.reason,
          ...(this.#recorded !== undefined && { recorded: this.#recorded }),
          ...(this.#replayed > 0 && { replayed: this.#replayed }),
          ...(check && { check }),
          opaque: [],
        },
      }),
    }
  }
}
