import { CkptError, type EngineCall, type Epoch, type UpdateSession } from '@ckpt/contract'
import { openSession, workerAddress } from '@ckpt/worker-link'
import { unreachable, unreachableForAny } from '../near/reachable.ts'
import { announce, type Announcement } from './announcement.ts'
import { namedWait } from './named-wait.ts'
import { ownAnnouncement } from './own-announcement.ts'
import { READY_GRACE_MS, readyEngine } from './ready-engine.ts'
import type { UpdateRun } from './update-run.ts'
import type { BegunUpdate } from './update-context.ts'

/** Deadline of every wait, and the participating ranks if these are not all. */
export type Wait = { readonly timeoutMs: number; readonly signal: AbortSignal; readonly ranks?: readonly number[] }

/** Returns the deadline of an update's waits. */
export function waitOf({ timeoutMs, signal, strategy }: UpdateRun): Wait {
  return { timeoutMs, signal, ...(strategy.ranks && { ranks: strategy.ranks }) }
}

/** Opens the socket for this rank's worker, and exchanges who takes part. The caller closes the session. */
export async function beginUpdate(run: UpdateRun, epoch: Epoch, wait: Wait): Promise<BegunUpdate> {
  const { engine, rendezvous, strategy, timeoutMs } = run
  const { rank } = rendezvous
  const deviceUuid = run.device.uuid
  const state = await readyEngine({ ...run, onWaiting: run.events.onWaiting })
  const address = workerAddress(engine, { rank, deviceUuid, socketDir: run.worker.socketDir, epoch: epoch.id })
  const endpoint = { rank, deviceUuid, address }
  // Before it is announced: the rank that calls the engine may be ahead of this one, and a worker refuses an address without a listener.
  const session = await openSession(engine, {
    rank,
    address,
    epoch: epoch.id,
    timeoutMs,
    onGiven: () => (run.progress.touched = true),
    onWaiting: run.events.onWaiting,
  })
  try {
    const patience = { ...wait, timeoutMs: timeoutMs + READY_GRACE_MS }
    const announcements = await announce(rendezvous, epoch, await ownAnnouncement(run, endpoint, state), patience)
    session.admit(announcements[0]!.token)
    run.events.onBegin(announcements)
    const groups = await groupsOf(run, announcements, epoch, wait)
    const members = membersOf(run, announcements, groups)
    const apart = members.length < announcements.length ? await apartFrom(run, members, epoch, wait) : undefined
    // Before any engine is called. Workers with checkpoint-engine's protocol are never written to directly.
    if (apart && (!strategy.mayNeedNoRing || engine.protocol === 'checkpoint-engine')) throw apart
    assertIntact(run)
    return { epoch, announcements, groups, members, apart, session }
  } catch (error) {
    session.close()
    throw error
  }
}

/** Returns the ranks of this rank's collective: those of the host device map each other's rings. */
function membersOf(
  { rendezvous, device }: UpdateRun,
  announcements: readonly Announcement[],
  groups: ReadonlyMap<number, number>,
): readonly number[] {
  const ranks = announcements.map(({ endpoint }) => endpoint.rank)
  return device.kind === 'host' ? ranks.filter((rank) => groups.get(rank) === groups.get(rendezvous.rank)) : ranks
}

/** Returns the reason why some rank can neither map nor read what others hold. */
async function apartFrom(
  { rendezvous, held: { manifest, joining, reach } }: UpdateRun,
  members: readonly number[],
  epoch: Epoch,
  wait: Wait,
): Promise<CkptError | undefined> {
  const own = unreachable({ rank: rendezvous.rank, manifest, joining, members, reach: await reach() })
  return unreachableForAny(own, (key, value) => rendezvous.allGather(key, value, { epoch: epoch.id, ...wait }))
}

/** Returns which ranks share memory, as they prove it to each other. */
function groupsOf(
  { rendezvous, keep }: UpdateRun,
  announcements: readonly Announcement[],
  epoch: Epoch,
  wait: Wait,
): Promise<ReadonlyMap<number, number>> {
  const located = announcements.map(({ endpoint, near }) => ({ rank: endpoint.rank, near }))
  return keep.nearness.groups(located, rendezvous.rank, (key, value) =>
    rendezvous.allGather(key, value, { epoch: epoch.id, ...wait }),
  )
}

/** Tells the engine to begin the update, or to prepare one: its worker connects. */
export async function startEngine(
  run: UpdateRun,
  { announcements, session }: BegunUpdate,
  purpose: 'update' | 'prepare' = 'update',
): Promise<EngineCall> {
  const { engine, rendezvous, version, timeoutMs, signal, events } = run
  const { rank } = rendezvous
  const endpoints = announcements.map(({ endpoint }) => endpoint)
  const given = { rank, endpoints, token: announcements[0]!.token, version, timeoutMs, signal }
  const starting = purpose === 'prepare' && engine.prepare ? engine.prepare(given) : engine.start(given)
  const named = { rank, onWaiting: events.onWaiting }
  const call = await namedWait(starting, { what: `the ${engine.name} engine to begin the update`, ...named })
  if (call.finished) watchCall(call.finished, session, rank)
  return call
}

/** @throws CkptError `MEMORY_CHANGED` naming the file, if what this rank reads differs from what was registered. */
export function assertIntact({ held }: UpdateRun): void {
  for (const memory of held.segments) memory.assertIntact?.()
}

/**
 * Fails the session if a call ends before the update. The worker's own answer arrives on a different channel and contains more,
 * so the session waits for it briefly.
 */
function watchCall(finished: Promise<void>, session: UpdateSession, rank: number): void {
  const failLater = (error: CkptError, milliseconds: number) => void setTimeout(() => session.fail(error), milliseconds).unref()
  finished.then(
    () =>
      failLater(
        new CkptError('ENGINE_PROTOCOL', `the engine of rank ${rank} ended its call early`, { fields: { rank } }),
        1000,
      ),
    (error: unknown) => failLater(CkptError.from(error, 'ENGINE_WORKER_LOST', undefined, { rank }), 100),
  )
}
