import type { NamespaceHost } from '@ckpt/testing'
import type { Fault, FaultContext, Point } from './fault.ts'

const UPDATE: readonly Point[] = ['begin', 'plan', 'h2d', 'reload', 'release', 'commit', 'any', 'gather']

const hostOf = ({ cluster, victim }: FaultContext): NamespaceHost => cluster.hostOf(victim)!

/** Harms the victim's host until its link is restored. */
const untilRestored = (harm: (host: NamespaceHost) => void) => (context: FaultContext) => {
  const host = hostOf(context)
  harm(host)
  return Promise.resolve(() => host.restore())
}

/** Loses all processes of the victim's host, its rank and its engine worker, and starts it again empty. */
async function lose(context: FaultContext): Promise<undefined> {
  const { cluster, victim } = context
  const processes = [cluster.ranks[victim]!.process, cluster.engines[victim]!.process]
  for (const { child } of processes) cluster.dead.add(child.pid!)
  await hostOf(context).kill()
  await Promise.all(processes.map((process) => process.stop('SIGKILL')))
  await hostOf(context).restart()
  return undefined
}

/** A host that others do not hear, or that does not hear them: its rank is lost, whatever it sees itself. */
const cutOff = (name: string, harm: (host: NamespaceHost) => void, points = UPDATE): Fault => ({
  name,
  points,
  victims: 'member',
  expect: 'fails',
  codes: ['RANK_LOST', 'PEER_LOST'],
  within: 'window',
  spares: 'victim',
  lost: 'victim',
  undo: 'survivors',
  inject: untilRestored(harm),
})

/**
 * Faults of hosts and of their links: of a rank and its engine worker together. Ranks on several hosts read from each other in
 * every strategy, so a lost host can be seen as a lost peer first.
 */
export const HOST_FAULTS: readonly Fault[] = [
  cutOff('host cut off', (host) => host.link('down')),
  // When it commits, the others hear that it has, and need no more of it.
  cutOff(
    'host hears nothing',
    (host) => host.lose('in'),
    UPDATE.filter((point) => point !== 'commit'),
  ),
  cutOff('host is not heard', (host) => host.lose('out')),
  {
    name: 'host gone',
    points: UPDATE,
    victims: 'member',
    expect: 'fails',
    codes: ['RANK_LOST', 'PEER_LOST'],
    within: 'window',
    spares: 'victim',
    lost: 'nobody',
    inject: lose,
  },
  {
    name: 'host of the coordinator gone',
    points: ['begin', 'h2d', 'reload', 'commit', 'any', 'gather'],
    victims: 'coordinator',
    expect: 'fails',
    codes: ['RANK_LOST', 'PEER_LOST'],
    within: 'window',
    spares: 'victim',
    lost: 'everybody',
    inject: lose,
  },
  {
    name: 'link cut for a moment',
    points: ['begin', 'h2d', 'reload', 'commit', 'any', 'gather'],
    victims: 'any',
    // Shorter than the window: TCP sends again what was lost.
    expect: 'either',
    codes: ['RANK_MISSING', 'RANK_LOST', 'TIMEOUT', 'PEER_LOST'],
    within: 'deadline',
    lost: 'nobody',
    undo: ({ cluster, random }) => random.between(50, Math.floor(cluster.options.windowMs * 0.3)),
    inject: untilRestored((host) => host.link('down')),
  },
  {
    name: 'link slow',
    points: ['begin', 'h2d', 'commit', 'any', 'gather'],
    victims: 'any',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    inject: untilRestored((host) => host.slow(16 * 2 ** 20)),
  },
]
