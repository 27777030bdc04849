import { CkptError, type UpdateAttempt, type UpdateContext } from '@ckpt/contract'
import type { PlannedCheck, PlanInputs } from '../verify/parameter-check.ts'
import { verificationOf, type Verification } from '../verify/verification.ts'
import { holdersOf } from './update-context.ts'
import type { UpdateRun } from './update-run.ts'

/** Compares parameters with the registered bytes, if requested and if a recording maps them. */
export class UpdateVerification {
  readonly #run: UpdateRun
  readonly #attempt: UpdateAttempt
  readonly #context: UpdateContext
  readonly #inputs: PlanInputs
  #planned: Promise<PlannedCheck> | undefined

  constructor(
    run: UpdateRun,
    attempt: UpdateAttempt,
    context: UpdateContext,
    wait: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly ranks?: readonly number[] },
    epoch: number,
  ) {
    this.#run = run
    this.#attempt = attempt
    this.#context = context
    const { ranks, manifest } = context
    this.#inputs = { rendezvous: run.rendezvous, epoch, wait, ranks, holders: holdersOf(context), manifest }
  }

  /** Plans the comparison while the bytes move, if all ranks know what their workers keep. */
  plan(): void {
    const { level, check } = this.#run.verify
    const { known } = this.#attempt
    if (level !== 'bytes' || known === undefined || !this.#hasDigests) return
    this.#planned = check.plan(this.#inputs, known.recording)
    this.#planned.catch(() => undefined) // thrown where it is awaited, unless the update has failed by then
  }

  /** Compares, when the own worker has finished loading. */
  async finish(): Promise<Verification> {
    const { level: asked, check } = this.#run.verify
    const { segments, session } = this.#context
    const started = performance.now()
    const worker = asked === 'bytes' ? await this.#attempt.worker() : undefined
    try {
      const inputs = { ...this.#inputs, segments, host: this.#run.device.host, worker }
      const checked = asked === 'bytes' ? await check.run(inputs, this.#planned) : undefined
      return verificationOf({
        asked,
        hasDigests: this.#hasDigests,
        comparesRing: session.checksDigests,
        staged: this.#attempt.staged(),
        checked,
        milliseconds: performance.now() - started,
      })
    } catch (error) {
      if (worker?.required && CkptError.is(error, 'DIGEST_MISMATCH')) this.#attempt.distrust?.(worker.recording)
      throw error
    }
  }

  get #hasDigests(): boolean {
    return this.#context.manifest.ranks.every(({ tensors }) => tensors.count === 0 || tensors.digests !== undefined)
  }
}
