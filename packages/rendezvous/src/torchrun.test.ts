import { createServer, type Server } from 'node:net'

import { describe, expect, it, onTestFinished } from 'vitest'

import { rendezvousOptionsFromEnv } from './env.ts'
import { joinRendezvous } from './join.ts'
import { failure } from './testing/cluster.ts'
import { torchrunMeeting } from './meeting.ts'

const RUN = {
  WORLD_SIZE: '2',
  LOCAL_WORLD_SIZE: '2',
  MASTER_ADDR: 'node-7.cluster',
  TORCHELASTIC_RUN_ID: 'none',
  TORCHELASTIC_USE_AGENT_STORE: 'True',
}
let port = 30_000 + (process.pid % 20_000)

/** The variables that torchrun sets for the ranks of one run; each run on a machine has its own port. */
function run(more: Record<string, string> = {}): (rank: number) => Record<string, string> {
  const shared = { ...RUN, MASTER_PORT: String(port++), ...more }
  return (rank) => ({ ...shared, RANK: String(rank) })
}

const joined = async (env: Record<string, string>, timeoutMs = 20_000) => {
  const rendezvous = await joinRendezvous({ ...rendezvousOptionsFromEnv(env), timeoutMs })
  onTestFinished(() => rendezvous.close())
  return rendezvous
}

/** Occupies a port: stays silent, closes immediately, or answers with something else. */
async function take(address: string, manner: 'silent' | 'rude' | 'http'): Promise<void> {
  const server: Server = createServer((socket) => {
    socket.on('error', () => undefined)
    if (manner === 'rude') socket.destroy()
    if (manner === 'http') socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')
    onTestFinished(() => void socket.destroy())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(Number(/\d+$/.exec(address)![0]), '127.0.0.1', resolve)
  })
  onTestFinished(() => void server.close())
}

describe('ranks of a torchrun whose agent keeps MASTER_PORT', () => {
  it('derive the same few ports, none of them the agent’s, whatever their rank', () => {
    const of = run()
    const [first, second] = [0, 1].map((rank) => rendezvousOptionsFromEnv(of(rank)))
    expect(second).toEqual({ ...first, rank: 1 })
    const addresses = [first!.address!, ...first!.alternatives!]
    expect(new Set(addresses).size).toBe(addresses.length)
    expect(addresses.length).toBeGreaterThan(4)
    for (const address of addresses) {
      expect(address).toMatch(/^tcp:\/\/localhost:\d+$/)
      expect(Number(/\d+$/.exec(address)![0])).toBeGreaterThanOrEqual(20_000)
      expect(Number(/\d+$/.exec(address)![0])).toBeLessThan(32_768)
    }
  })

  it('differ from those of runs with a different port, run id or host, which are never in one place by their secret', () => {
    const runs = [{}, { MASTER_PORT: '29501' }, { TORCHELASTIC_RUN_ID: 'b' }, { MASTER_ADDR: 'node-8' }].map(
      (more) => rendezvousOptionsFromEnv({ RANK: '0', MASTER_PORT: '29500', ...RUN, ...more }).run,
    )
    expect(new Set(runs).size).toBe(runs.length)
  })

  it('meet at MASTER_ADDR where they are on several machines', () => {
    const several = { ...RUN, LOCAL_WORLD_SIZE: '1' }
    expect(torchrunMeeting(several, 'node-7', 29_500)!.addresses[0]).toMatch(/^tcp:\/\/node-7:/)
    expect(torchrunMeeting(several, 'fd00::7', 29_500)!.addresses[0]).toMatch(/^tcp:\/\/\[fd00::7\]:/)
  })

  it.each([{ TORCHELASTIC_USE_AGENT_STORE: 'False' }, { TORCHELASTIC_USE_AGENT_STORE: '' }])(
    'have MASTER_PORT with %o',
    (more) => {
      expect(rendezvousOptionsFromEnv({ RANK: '0', ...RUN, MASTER_PORT: '1234', ...more })).toMatchObject({
        address: 'tcp://node-7.cluster:1234',
      })
    },
  )

  it('do as they are told where the address is given', () => {
    const options = rendezvousOptionsFromEnv({ ...run()(0), MASTER_PORT: 'tcp://10.0.0.1:1' }, { address: 'tcp://127.0.0.1:7' })
    expect(options).toEqual({ rank: 0, worldSize: 2, address: 'tcp://127.0.0.1:7' })
  })

  it.each(['silent', 'rude', 'http'] as const)('meet although ports are taken by something %s', async (manner) => {
    const of = run()
    const { address, alternatives } = rendezvousOptionsFromEnv(of(0))
    for (const taken of [address!, ...alternatives!.slice(0, 2)]) await take(taken, manner)
    // The first one to arrive waits.
    const second = joined(of(1))
    const ranks = await Promise.all([joined(of(0)), second])
    expect(await Promise.all(ranks.map((rank) => rank.allGather('x', rank.rank)))).toEqual([
      [0, 1],
      [0, 1],
    ])
  })

  it('never meet those of another run of the same user, even where its coordinator has all their ports', async () => {
    const [ours, theirs] = [run(), run()]
    const own = rendezvousOptionsFromEnv(ours(1))
    const other = await joinRendezvous({
      ...rendezvousOptionsFromEnv(theirs(0)),
      address: own.address!,
      alternatives: [],
      timeoutMs: 20_000,
    })
    onTestFinished(() => other.close())
    const error = await failure(joined(ours(1), 1500))
    expect(error).toMatchObject({ code: 'RANK_MISSING', fields: { ranks: [0] } })
    expect(error.message).toContain('not the coordinator of this run')
    const ranks = await Promise.all([0, 1].map((rank) => joined(ours(rank))))
    expect(await ranks[0]!.allGather('x', 0, { ranks: [0] })).toEqual([0])
  })
})
