import { CkptError, type UpdateAttempt, type UpdateContext } from '@ckpt/contract'
import { verificationOf, type Verification } from '../verify/verification.ts'
import type { UpdateRun } from './update-run.ts'

/** Compares parameters with the registered bytes, if requested and if a recording maps them. */
export async function verifyUpdate(
  run: UpdateRun,
  attempt: UpdateAttempt,
  { ranks, session, manifest, segments }: UpdateContext,
  wait: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly ranks?: readonly number[] },
  epoch: number,
): Promise<Verification> {
  const { rendezvous, device } = run
  const { level: asked, check } = run.verify
  const started = performance.now()
  const worker = asked === 'bytes' ? await attempt.worker() : undefined
  try {
    const inputs = { rendezvous, epoch, wait, ranks, manifest, segments, host: device.host, worker }
    const checked = asked === 'bytes' ? await check.run(inputs) : undefined
    return verificationOf({
      asked,
      hasDigests: manifest.ranks.every(({ tensors }) => tensors.count === 0 || tensors.digests !== undefined),
      comparesRing: session.checksDigests,
      staged: attempt.staged(),
      checked,
      milliseconds: performance.now() - started,
    })
  } catch (error) {
    if (worker?.required && CkptError.is(error, 'DIGEST_MISMATCH')) attempt.distrust?.(worker.recording)
    throw error
  }
}
