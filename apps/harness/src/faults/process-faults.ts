import type { Fault, FaultContext, Point } from './fault.ts'

const UPDATE: readonly Point[] = ['begin', 'plan', 'attach', 'h2d', 'broadcast', 'reload', 'release', 'commit', 'any']
const WITH_WORKER: readonly Point[] = ['plan', 'attach', 'h2d', 'broadcast', 'reload', 'release', 'commit', 'any']

const rankOf = ({ cluster, victim }: FaultContext) => cluster.ranks[victim]!.process.child
const engineOf = ({ cluster, victim }: FaultContext) => cluster.engines[victim]!.process.child
const short = ({ cluster, random }: FaultContext) => random.between(50, Math.floor(cluster.options.windowMs * 0.4))

function stopped(child: ReturnType<typeof rankOf>): () => void {
  child.kill('SIGSTOP')
  return () => void child.kill('SIGCONT')
}

/** Faults of processes: killed, stopped for long or for a moment, slow, failing. */
export const PROCESS_FAULTS: readonly Fault[] = [
  {
    name: 'rank killed',
    points: [...UPDATE, 'gather'],
    victims: 'member',
    expect: 'fails',
    codes: ['RANK_LOST'],
    pullCodes: ['PEER_LOST'],
    within: 'window',
    spares: 'victim',
    lost: 'nobody',
    async inject({ cluster, victim }) {
      await cluster.kill('rank', victim)
      return undefined
    },
  },
  {
    name: 'coordinator killed',
    points: [...UPDATE, 'gather'],
    victims: 'coordinator',
    expect: 'fails',
    codes: ['RANK_LOST'],
    pullCodes: ['PEER_LOST'],
    within: 'window',
    spares: 'victim',
    lost: 'everybody',
    async inject({ cluster, victim }) {
      await cluster.kill('rank', victim)
      return undefined
    },
  },
  {
    name: 'rank stopped',
    points: [...UPDATE, 'gather'],
    victims: 'member',
    expect: 'fails',
    codes: ['RANK_LOST'],
    pullCodes: ['PEER_LOST'],
    within: 'window',
    spares: 'victim',
    lost: 'victim',
    undo: 'survivors',
    inject: (context) => Promise.resolve(stopped(rankOf(context))),
  },
  {
    name: 'coordinator stopped',
    points: ['begin', 'h2d', 'reload', 'commit', 'any', 'gather'],
    victims: 'coordinator',
    expect: 'fails',
    codes: ['RANK_LOST'],
    pullCodes: ['PEER_LOST'],
    within: 'window',
    spares: 'victim',
    lost: 'everybody',
    undo: 'survivors',
    inject: (context) => Promise.resolve(stopped(rankOf(context))),
  },
  {
    name: 'rank paused',
    points: [...UPDATE, 'gather'],
    victims: 'any',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    undo: short,
    inject: (context) => Promise.resolve(stopped(rankOf(context))),
  },
  {
    name: 'engine killed',
    points: WITH_WORKER,
    victims: 'any',
    expect: 'fails',
    codes: ['ENGINE_WORKER_LOST', 'ENGINE_UNREACHABLE'],
    within: 'window',
    lost: 'nobody',
    async inject({ cluster, victim }) {
      await cluster.kill('engine', victim)
      return undefined
    },
  },
  {
    // Its connections stay open, like those of a process that takes long to release a GPU's memory.
    name: 'engine killed, its child lives',
    points: ['attach', 'reload', 'release', 'commit'],
    victims: 'any',
    expect: 'fails',
    codes: ['ENGINE_WORKER_LOST'],
    within: 'window',
    lost: 'nobody',
    async inject({ cluster, victim }) {
      const heir = await cluster.engines[victim]!.heir()
      await cluster.kill('engine', victim)
      return () => void process.kill(heir, 'SIGKILL')
    },
  },
  {
    name: 'engine stopped',
    points: ['plan', 'attach', 'reload', 'release', 'commit'],
    victims: 'any',
    expect: 'fails',
    codes: ['ENGINE_WORKER_LOST', 'ENGINE_UNREACHABLE', 'TIMEOUT', 'RANK_MISSING'],
    within: 'deadline',
    lost: 'nobody',
    inject: (context) => Promise.resolve(stopped(engineOf(context))),
  },
  {
    name: 'engine paused',
    points: WITH_WORKER,
    victims: 'any',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    undo: short,
    inject: (context) => Promise.resolve(stopped(engineOf(context))),
  },
]
