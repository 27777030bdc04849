import {
  CkptError,
  type CheckedWorker,
  type DirectStats,
  type PreparedTensors,
  type Recording,
  type RecordingSession,
  type RingHandle,
  type StagedContext,
  type StagedResult,
  type UpdateAttempt,
  type UpdateContext,
  type UpdateOutcome,
} from '@ckpt/contract'
import { Recordings, stagedContext, stagedSpans } from '@ckpt/staging'
import { checkReport } from './check-report.ts'
import type { Direct, SpotCheck } from './direct-state.ts'
import type { PreparedDirect } from './prepared.ts'
import { throughRing, type ThroughRing } from './through-ring.ts'

/** Writes directly into the parameters; opaque tensors pass through a small ring. */
export class DirectAttempt implements UpdateAttempt {
  readonly usesRing: boolean
  readonly known: CheckedWorker
  readonly #context: UpdateContext
  readonly #session: RecordingSession
  readonly #prepared: PreparedDirect
  readonly #check: SpotCheck | undefined
  readonly #direct: Direct
  #ringed: ThroughRing | undefined
  #staged: StagedContext | undefined
  #result: { readonly stats: DirectStats; readonly startedAt: number; readonly staged?: StagedResult } | undefined

  constructor(context: UpdateContext, session: RecordingSession, direct: Direct) {
    const { prepared, check } = direct
    this.#direct = direct
    this.#context = context
    this.#session = session
    this.#prepared = prepared
    this.#check = check
    this.usesRing = prepared.plan.opaque.length > 0
    this.known = { session, recording: prepared.recording, required: true }
  }

  plan(): Promise<void> {
    this.#ringed = throughRing(this.#context, this.#direct)
    return Promise.resolve()
  }

  async attach(): Promise<void> {
    const { signal, rank, exchanges } = this.#context
    const session = this.#session
    const plan = this.#ringed?.planned.plan
    const totals = { tensors: plan?.items.count ?? 0, bytes: plan?.totalBytes ?? 0 }
    const attach = (ring: RingHandle | null) => void session.attach(ring, totals, signal)
    if (this.#ringed === undefined) attach(null)
    else {
      const { manifest, planned } = this.#ringed
      this.#staged = await stagedContext(this.#context, manifest, planned, (ring) => attach(ring.handle))
    }
    await session.direct(this.#prepared.recording.id, this.#check?.tensors)
    // Other ranks write into this worker's parameters too, so none begins before all workers are ready.
    await exchanges.gather('direct/begin', rank)
  }

  async execute(): Promise<void> {
    const { rank, ranks, signal, onProgress, exchanges } = this.#context
    signal.throwIfAborted()
    const totalBytes = this.#prepared.own.neededBytes + (this.#ringed?.planned.plan.totalBytes ?? 0)
    const startedAt = performance.now()
    const [written, staged] = await Promise.allSettled([this.#prepared.job.run(signal), this.#runStaged(totalBytes)])
    if (written.status === 'rejected') throw CkptError.from(written.reason, 'UPDATE_FAILED', 'writing parameters', { rank })
    if (staged.status === 'rejected') throw staged.reason
    onProgress?.(totalBytes, totalBytes)
    this.#result = { stats: written.value, startedAt, ...(staged.value && { staged: staged.value }) }
    // Bytes forwarded by others have arrived when all ranks have finished.
    if (ranks.length > 1) await exchanges.gather('direct/end', rank)
  }

  assertIntact(): void {
    this.#prepared.assertIntact()
  }

  async release(): Promise<void> {
    await this.#session.release()
  }

  /** Names of the opaque tensors, which pass through the ring. */
  staged(): ReadonlySet<string> {
    return new Set(this.#prepared.plan.opaque.map(({ name }) => name))
  }

  worker(): Promise<CheckedWorker> {
    return Promise.resolve(this.known)
  }

  vote(): PreparedTensors {
    const { recording, checkpointBytes } = this.#prepared
    return {
      manifestDigest: this.#context.manifest.digest,
      tensors: recording.tensors.length,
      bytes: checkpointBytes,
    }
  }

  distrust(recording: Recording): void {
    this.#context.kept.of(Recordings).distrust(recording)
  }

  outcome(): UpdateOutcome {
    const { manifest } = this.#context
    const { stats, startedAt, staged } = this.#result!
    const plan = this.#ringed?.planned.plan
    return {
      strategy: 'direct',
      mode: plan?.mode ?? 'pipelined',
      modeReason: plan?.modeReason ?? 'nothing passes through a ring',
      ...(staged?.stats.order && { order: staged.stats.order }),
      direct: this.#report(stats),
      bytes: this.#prepared.checkpointBytes,
      tensors: manifest.ranks.reduce((sum, { tensors }) => sum + tensors.count, 0),
      buckets: plan?.buckets.count ?? 0,
      ringBytes: plan?.ringBytes ?? 0,
      bucketBytes: plan?.bucketBytes ?? 0,
      h2dBytes: (staged?.stats.h2dBytes ?? 0) + stats.h2dBytes,
      broadcastBytes: (staged?.stats.broadcastBytes ?? 0) + stats.forwardBytes,
      stages: {
        h2dMs: (staged?.stats.h2dMs ?? 0) + stats.h2dMs,
        broadcastMs: (staged?.stats.broadcastMs ?? 0) + stats.forwardMs,
        reloadMs: staged?.reloadMs ?? 0,
        idleMs: 0,
      },
      spans: [...(staged ? stagedSpans(staged) : []), { zero: startedAt, rows: stats.spans }],
    }
  }

  #runStaged(totalBytes: number): Promise<StagedResult | undefined> {
    const { onProgress, staged } = this.#context
    const context = this.#staged
    if (context === undefined) return Promise.resolve(undefined)
    const part = onProgress && { onProgress: (loaded: number) => onProgress(loaded, totalBytes) }
    return staged.run({ ...context, ...part })
  }

  #report(stats: DirectStats): NonNullable<UpdateOutcome['direct']> {
    const { own, plan, recording, remoteBytes } = this.#prepared
    const { manifest, device } = this.#context
    const check = checkReport(this.#check, manifest)
    return {
      opaque: plan.opaque,
      ...(check && { check }),
      bytes: {
        needed: own.neededBytes,
        h2d: stats.h2dBytes,
        forwarded: stats.forwardBytes,
        opaque: (this.#ringed?.planned.plan.totalBytes ?? 0) - (check?.bytes ?? 0),
        ...(remoteBytes > 0 && { pulled: remoteBytes }),
        nodeNeeded: plan.uniqueBytes,
      },
      routes: own.routes,
      copies: own.copies.count + own.forwards.count,
      parameters: recording.parameters.length,
      how: device.direct?.how ?? '',
    }
  }
}
