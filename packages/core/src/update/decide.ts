import { CkptError, type WorkerEndpoint } from '@ckpt/contract'
import type { Decision } from '../direct/state.ts'
import type { WorkerSession } from '../worker-protocol/session.ts'
import type { UpdateRun } from './update.ts'

/** An update that is staged because its strategy is. */
const STAGED: Extract<Decision, { reason: string }> = { reason: '', record: false, recorded: false }

/**
 * Whether this update is direct; all ranks come to the same decision.
 *
 * @throws CkptError `UNSUPPORTED` with the reason, where the strategy requires a direct update and it was recorded already.
 */
export async function decide(
  run: UpdateRun,
  session: WorkerSession,
  endpoints: readonly WorkerEndpoint[],
  options: { epoch: number; timeoutMs: number; signal: AbortSignal },
): Promise<Decision> {
  const { rendezvous, strategy } = run
  if (strategy.name !== 'direct') return STAGED
  const decision = await run.direct.decide({
    device: run.device,
    rank: rendezvous.rank,
    manifest: run.manifest,
    segments: run.segments,
    session,
    deviceUuids: endpoints.map(({ deviceUuid }) => deviceUuid),
    exchanges: {
      gather: (key, value) => rendezvous.allGather(key, value, options),
      gatherBlobs: (key, blob) => rendezvous.allGatherBlobs(key, blob, options),
    },
    signal: options.signal,
  })
  if (strategy.required && 'reason' in decision && decision.recorded) {
    throw new CkptError('UNSUPPORTED', `the update cannot be direct: ${decision.reason}`, { fields: { rank: rendezvous.rank } })
  }
  return decision
}
