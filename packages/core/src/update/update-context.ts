import type { CkptError, Epoch, UpdateContext, UpdateSession } from '@ckpt/contract'
import { provenHosts } from '../near/nearness.ts'
import type { Announcement } from './announcement.ts'
import type { UpdateRun } from './update-run.ts'

/** Result of the update's beginning: the participating ranks and their locations. */
export interface BegunUpdate {
  readonly epoch: Epoch
  /** Ascending by rank. */
  readonly announcements: readonly Announcement[]
  /** Groups of ranks that have proved that they share memory. */
  readonly groups: ReadonlyMap<number, number>
  /** Ranks of this rank's collective, ascending. */
  readonly members: readonly number[]
  /** Reason why some rank can neither map nor read what others hold: then nothing can go through rings. */
  readonly apart: CkptError | undefined
  readonly session: UpdateSession
}

/** Returns the participating ranks that hold what the manifest says of them: none if its ranks are those of another run. */
export function holdersOf({ joining, ranks }: Pick<UpdateContext, 'joining' | 'ranks'>): readonly number[] {
  return joining ? [] : ranks
}

/** Creates the strategy's context. */
export function updateContext(
  run: UpdateRun,
  { epoch, announcements, groups, members, session }: BegunUpdate,
  wait: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly ranks?: readonly number[] },
): UpdateContext {
  const { rendezvous, keep, ring, verify, failed } = run
  const { opening, ...held } = run.held
  const { onProgress } = run.events
  const { resources } = keep
  const { rank } = rendezvous
  const { timeoutMs, signal } = wait
  const ranks = announcements.map(({ endpoint }) => endpoint.rank)
  const options = { epoch: epoch.id, ...wait }
  // If a member has lost its ring or collective, all members create them again.
  const fresh = announcements.some(
    ({ endpoint, generation }) => members.includes(endpoint.rank) && generation !== resources.generation,
  )
  const gather = <T>(key: string, value: T): Promise<T[]> => rendezvous.allGather(key, value, options)
  return {
    ...held,
    ...(members.length < ranks.length && { spread: { ...opening, gather, groups: byMemory(ranks, groups) } }),
    rank,
    ranks,
    provenManifest: provenHosts(held.manifest, groups),
    device: run.device,
    session,
    loading: run.progress.watch(session),
    endpoints: announcements.map(({ endpoint }) => endpoint),
    announced: announcements.map(({ strategy }) => strategy),
    kept: keep.strategies,
    staged: keep.staged,
    ring: {
      ...ring,
      limitBytes: Math.min(...announcements.map(({ ringLimit }) => ringLimit)),
      members,
      make: async (bytes) => {
        if (fresh) await resources.release()
        return resources.ring(bytes)
      },
      join: () => {
        const among = { ...options, ranks: members }
        const exchange = <T>(key: string, value: T): Promise<T[]> =>
          rendezvous.allGather(`collective/${members[0]}/${key}`, value, among)
        return resources.collective(members, rank, exchange, timeoutMs, signal)
      },
    },
    exchanges: {
      gather,
      gatherBlobs: (key, blob) => rendezvous.allGatherBlobs(key, blob, options),
    },
    verify: {
      level: verify.level,
      record: verify.record,
      comparedInRing: (recording) =>
        verify.check.comparedInRing(recording, held.manifest, holdersOf({ joining: held.joining, ranks })),
    },
    ...(failed && { failed }),
    timeoutMs,
    signal,
    ...(onProgress && { onProgress }),
  }
}

/** Returns the ranks of each group, in the order of their first ranks. */
function byMemory(ranks: readonly number[], groups: ReadonlyMap<number, number>): readonly (readonly number[])[] {
  const members = new Map<number | undefined, number[]>()
  for (const rank of ranks) {
    const group = groups.get(rank)
    const others = members.get(group)
    if (others === undefined) members.set(group, [rank])
    else others.push(rank)
  }
  return [...members.values()]
}
