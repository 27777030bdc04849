import { CkptError, type Manifest, type WorkerEndpoint } from '@ckpt/contract'
import type { Decision, Proposal } from '../direct/state.ts'
import { provenHosts } from '../near/nearness.ts'
import { canRecord, type RecordingSession, type UpdateSession } from '@ckpt/worker-link'
import type { UpdateRun } from './run.ts'

type Staged = Extract<Decision, { reason: string }>
export type Direct = Extract<Decision, { prepared: object }> & { readonly session: RecordingSession }

/** An update that is staged because its strategy is. */
const STAGED: Staged = { reason: '', record: false, recorded: false }
/** What checkpoint-engine's workers speak knows nothing of parameters; all ranks have the same engine. */
const OTHER: Staged = { reason: 'the engine’s workers speak another protocol', record: false, recorded: true }

/**
 * Whether this update is direct; all ranks come to the same decision.
 *
 * @throws CkptError `UNSUPPORTED` with the reason, where the strategy requires a direct update and it was recorded already.
 */
export async function decide(
  run: UpdateRun,
  session: UpdateSession,
  all: {
    readonly endpoints: readonly WorkerEndpoint[]
    readonly announced: Proposal['announced']
    /** Which ranks have proved to share memory. */
    readonly groups: ReadonlyMap<number, number>
  },
  options: { epoch: number; timeoutMs: number; signal: AbortSignal },
): Promise<Staged | Direct> {
  const { rendezvous, strategy } = run
  if (strategy.name !== 'direct') return STAGED
  const manifest = provenHosts(run.manifest, all.groups)
  const decision = !canRecord(session)
    ? OTHER
    : await run.direct.decide({
        device: run.device,
        rank: rendezvous.rank,
        manifest,
        segments: run.segments,
        session,
        deviceUuids: near(manifest, rendezvous.rank, all.endpoints).map(({ deviceUuid }) => deviceUuid),
        exchanges: {
          gather: (key, value) => rendezvous.allGather(key, value, options),
          gatherBlobs: (key, blob) => rendezvous.allGatherBlobs(key, blob, options),
        },
        announced: all.announced,
        checkEvery: strategy.checkEvery,
        remote: async () => ({ ...(await run.reach()), timeoutMs: options.timeoutMs }),
        signal: options.signal,
      })
  if (strategy.required && 'reason' in decision && decision.recorded) {
    throw new CkptError('UNSUPPORTED', `the update cannot be direct: ${decision.reason}`, { fields: { rank: rendezvous.rank } })
  }
  return 'prepared' in decision ? { ...decision, session: session as RecordingSession } : decision
}

/** Workers of this rank's host. */
function near(manifest: Manifest, own: number, endpoints: readonly WorkerEndpoint[]): WorkerEndpoint[] {
  const hosts = new Map(manifest.ranks.map(({ rank, host }) => [rank, host]))
  return endpoints.filter(({ rank }) => hosts.get(rank) === hosts.get(own))
}
