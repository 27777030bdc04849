import type { DirectResult, DirectStrategy, Manifest, RingHandle, StrategyContext } from '@ckpt/contract'
import { subsetOf } from '@ckpt/planner'
import type { CheckedWorker } from '../verify/parameter-check.ts'
import type { PreparedDirect } from '../direct/prepared.ts'
import type { SpotCheck } from '../direct/state.ts'
import { tensorCount } from '../manifest.ts'
import { checkReport } from './check-report.ts'
import type { Direct } from './decide.ts'
import type { PlannedUpdate } from './plan-cache.ts'
import type { RecordingSession } from '@ckpt/worker-link'
import { contextFor, stage, type Outcome, type Staging } from './staged-work.ts'
import type { vote } from './vote.ts'

/** The most that the ring for opaque tensors takes, where none of them is larger. */
const RING_BYTES = 64 * 2 ** 20

/** Straight into the parameters; opaque tensors through a small ring. */
export class DirectWork {
  readonly #staging: Staging
  readonly #session: RecordingSession
  readonly #prepared: PreparedDirect
  readonly #check: SpotCheck | undefined
  #opaque: { readonly manifest: Manifest; readonly planned: PlannedUpdate } | undefined
  #context: StrategyContext | undefined
  #result: DirectResult | undefined

  constructor(staging: Staging, { session, prepared, check }: Direct) {
    this.#staging = staging
    this.#session = session
    this.#prepared = prepared
    this.#check = check
  }

  plan(): Promise<void> {
    const { run, ringBytes } = this.#staging
    const { opaque } = this.#prepared.plan
    const check = this.#check?.tensors ?? []
    if (opaque.length + check.length > 0) {
      const manifest = subsetOf(run.manifest, new Set([...opaque.map(({ name }) => name), ...check]))
      const largest = Math.max(...manifest.ranks.flatMap(({ tensors }) => [...tensors.bytes]), 0)
      const wanted = Math.max(RING_BYTES, Math.ceil(largest / 4096) * 4096)
      this.#opaque = { manifest, planned: stage(this.#staging, manifest, Math.min(ringBytes, wanted)) }
    }
    return Promise.resolve()
  }

  async attach(): Promise<void> {
    const { run, wait } = this.#staging
    const session = this.#session
    const opaque = this.#opaque
    const plan = opaque?.planned.plan
    const totals = { tensors: plan?.items.count ?? 0, bytes: plan?.totalBytes ?? 0 }
    const attach = (ring: RingHandle | null) => void session.attach(ring, totals, wait.signal)
    if (opaque === undefined) attach(null)
    else {
      this.#context = await contextFor(this.#staging, opaque.manifest, opaque.planned, (ring) => attach(ring.handle))
    }
    await session.direct(this.#prepared.recording.id, this.#check?.tensors)
    // Others write into this worker's parameters too: nobody begins before all workers are ready.
    await this.#staging.exchange('direct/begin', run.rendezvous.rank)
  }

  async execute(): Promise<void> {
    const { run, wait } = this.#staging
    const context = this.#context
    const onProgress = run.onProgress
    const totalBytes = this.#prepared.own.neededBytes + (this.#opaque?.planned.plan.totalBytes ?? 0)
    const part = onProgress && { onProgress: (loaded: number) => onProgress(loaded, totalBytes) }
    this.#result = await (run.strategy as DirectStrategy).execute({
      rank: run.rendezvous.rank,
      job: this.#prepared.job,
      ...(context && { staged: () => run.staged.execute({ ...context, ...part }) }),
      signal: wait.signal,
      totalBytes,
      ...(onProgress && { onProgress }),
    })
    // What others hand on has arrived when all have finished.
    if (this.#staging.ranks.length > 1) await this.#staging.exchange('direct/end', run.rendezvous.rank)
  }

  async release(): Promise<void> {
    await this.#session.release()
  }

  /** Opaque tensors come through the ring. */
  staged(): ReadonlySet<string> {
    return new Set(this.#prepared.plan.opaque.map(({ name }) => name))
  }

  worker(): Promise<CheckedWorker> {
    return Promise.resolve({ session: this.#session, recording: this.#prepared.recording, required: true })
  }

  /** What this rank votes for. */
  stands(): Parameters<typeof vote>[2] {
    const { manifest } = this.#staging.run
    const { recording, checkpointBytes } = this.#prepared
    const none = new Uint32Array(0)
    const items = { count: recording.tensors.length, tensor: none, bucketOffset: new Float64Array(0) }
    return { manifestDigest: manifest.digest, totalBytes: checkpointBytes, items }
  }

  outcome(): Outcome {
    const { run } = this.#staging
    const { own, plan, recording, remoteBytes } = this.#prepared
    const { stats, startedAt, staged } = this.#result!
    const check = checkReport(this.#check, run.manifest)
    const opaqueBytes = (this.#opaque?.planned.plan.totalBytes ?? 0) - (check?.bytes ?? 0)
    return {
      ...(this.#opaque && { planned: this.#opaque.planned }),
      ...(staged && { staged }),
      spans: stats.spans,
      stages: { h2dMs: stats.h2dMs, forwardMs: stats.forwardMs, h2dBytes: stats.h2dBytes },
      startedAt,
      tensors: tensorCount(run.manifest),
      bytes: this.#prepared.checkpointBytes,
      direct: {
        opaque: plan.opaque,
        ...(check && { check }),
        bytes: {
          needed: own.neededBytes,
          h2d: stats.h2dBytes,
          forwarded: stats.forwardBytes,
          opaque: opaqueBytes,
          ...(remoteBytes > 0 && { pulled: remoteBytes }),
          nodeNeeded: plan.uniqueBytes,
        },
        routes: own.routes,
        copies: own.copies.length / 8 + own.forwards.length / 8,
        parameters: recording.parameters.length,
        how: run.device.direct?.how ?? '',
      },
    }
  }
}
