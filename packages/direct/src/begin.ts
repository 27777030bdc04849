import { canRecord, CkptError, type UpdateAttempt, type UpdateContext } from '@ckpt/contract'
import { readAnnouncements } from './announcement.ts'
import { DirectAttempt } from './direct-attempt.ts'
import { throughRing } from './through-ring.ts'
import { DirectState, type Staged } from './direct-state.ts'
import { FallbackAttempt } from './fallback-attempt.ts'

/** checkpoint-engine's protocol has no messages about parameters; all ranks have the same engine. */
const OTHER_PROTOCOL: Staged = { reason: 'the engine’s workers use a different protocol', record: false, recorded: true }

/** Prepares a direct update; resolves to the reason if the next one would be staged. All ranks do the same. */
export async function prepareDirect(context: UpdateContext, checkEvery: number): Promise<string | undefined> {
  const { session, kept } = context
  if (!canRecord(session)) return OTHER_PROTOCOL.reason
  const announced = readAnnouncements(context.announced, context.ranks)
  const decision = await kept.of(DirectState).foresee(context, session, { announced, checkEvery })
  if ('reason' in decision) return decision.reason
  const part = throughRing(context, decision)
  if (part !== undefined) {
    await context.ring.make(part.planned.plan.ringBytes)
    await context.ring.join()
  }
  return undefined
}

/**
 * Returns an attempt for this update; all ranks make the same decision between direct and staged.
 *
 * @throws CkptError `UNSUPPORTED` with the reason, if a direct update is required and the engine was recorded already.
 */
export async function beginDirect(
  context: UpdateContext,
  { required, checkEvery }: { readonly required: boolean; readonly checkEvery: number },
): Promise<UpdateAttempt> {
  const { rank, session, kept } = context
  const announced = readAnnouncements(context.announced, context.ranks)
  const decision = canRecord(session)
    ? await kept.of(DirectState).decide(context, session, { announced, checkEvery })
    : OTHER_PROTOCOL
  if ('prepared' in decision && canRecord(session)) return new DirectAttempt(context, session, decision)
  if ('prepared' in decision) throw new RangeError('a direct update of a worker that cannot record')
  if (required && decision.recorded) {
    throw new CkptError('UNSUPPORTED', `the update cannot be direct: ${decision.reason}`, { fields: { rank } })
  }
  return new FallbackAttempt(context, decision)
}
