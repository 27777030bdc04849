import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import {
  Cluster,
  clockProblem,
  copyCheckpoint,
  type CopiedCheckpoint,
  generateCheckpoint,
  Hosts,
  type HostSettings,
  hostsProblem,
  type HostsOptions,
} from '@ckpt/testing'

const SIZE = 24 * 2 ** 20

/** Checkpoints outside of /dev/shm, which the hosts do not share. */
let directory: string
let checkpoints: CopiedCheckpoint[]
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-hosts-'))
  const host = createHost()
  checkpoints = await Promise.all(
    [1n, 1_000_000n].map(async (seed, index) => {
      using made = await generateCheckpoint(host, model('qwen3-30b-a3b'), SIZE, seed, `hosts-${index}`)
      return copyCheckpoint(made, join(directory, String(index)))
    }),
  )
})
afterAll(() => rmSync(directory, { recursive: true }))

/** Ranks with their engine workers on hosts: `places` has the host of each rank. */
async function start(context: Pick<TestContext, 'skip'>, options: HostsOptions, places: readonly number[]) {
  const problem = hostsProblem(options)
  if (problem !== undefined) context.skip(problem)
  const hosts = await Hosts.create(options)
  const hostOf = (rank: number) => hosts.hosts[places[rank]!]!
  try {
    const cluster = await Cluster.start({
      ranks: places.length,
      coordinator: hostOf(0).address,
      shareMemory: true,
      timeoutMs: 60_000,
      through: (rank) => hostOf(rank).through,
      engine: { kind: 'typescript', checkpoint: checkpoints[0]!.directory },
    })
    const close = async () => {
      await cluster.close()
      await hosts[Symbol.asyncDispose]()
    }
    return { hosts, cluster, [Symbol.asyncDispose]: close }
  } catch (error) {
    await hosts[Symbol.asyncDispose]()
    throw error
  }
}

/** Registers one of the checkpoints, updates all engines, and compares every parameter with the files. */
async function updated(
  cluster: Cluster,
  turn: number,
  update: Parameters<Cluster['update']>[1],
  onPoisoned?: (digests: unknown) => void,
) {
  const checkpoint = checkpoints[turn % checkpoints.length]!
  await cluster.register('c', checkpoint.directory)
  await cluster.all('gatherMetas', () => ({ name: 'c', digests: true }))
  await Promise.all(cluster.engines.map((engine) => engine.poison()))
  onPoisoned?.(await digestsOf(cluster))
  const reports = await cluster.update('c', update)
  for (const report of reports) expect(report.verified, JSON.stringify(update)).toBeTruthy()
  for (const engine of cluster.engines) {
    expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
  }
  await cluster.all('unregister', () => ({ name: 'c' }))
  return reports
}

const digestsOf = (cluster: Cluster) => Promise.all(cluster.engines.map((engine) => engine.digests()))

const allStrategies = (ranks: number): Parameters<Cluster['update']>[1][] => [
  { strategy: 'broadcast' },
  { p2p: Array.from({ length: ranks }, (_, rank) => rank) },
  { strategy: 'direct' },
  { strategy: 'direct-required', checkEvery: 0 },
]

describe.each([
  ['two hosts with three ranks', 2, [0, 0, 1]],
  ['three hosts with four ranks', 3, [0, 1, 1, 2]],
] as const)('%s', (_, count, places) => {
  it('take the same updates as one', { timeout: 240_000 }, async (context) => {
    await using made = await start(context, { count }, places)
    for (const [turn, update] of allStrategies(places.length).entries()) await updated(made.cluster, turn, update)
  })
})

/** Hosts that differ in one thing only, or that look alike where they must not. */
const APART: readonly (readonly [string, Omit<HostsOptions, 'count'>])[] = [
  ['networks', { shm: false, tmp: false, ipc: false, pid: false, name: false }],
  ['/dev/shm', { net: false, tmp: false, ipc: false, pid: false, name: false }],
  ['directories of temporary files', { net: false, shm: false, ipc: false, pid: false, name: false }],
  ['process ids, which are the same on both', { net: false, shm: false, tmp: false, ipc: false, name: false }],
  ['everything but their names', { name: false }],
  ['everything, their clocks by 5 minutes', { each: (index): HostSettings => (index === 1 ? { clockSeconds: 300 } : {}) }],
]

describe('hosts that do not share', { timeout: 240_000 }, () => {
  it.for(APART)('%s are updated in every way, or say what is not shared', async ([, options], context) => {
    const clock = options.each === undefined ? undefined : clockProblem()
    if (clock !== undefined) context.skip(clock)
    await using made = await start(context, { count: 2, ...options }, [0, 1])
    const { cluster } = made
    for (const [turn, update] of allStrategies(2).entries()) {
      let poisoned: unknown
      const outcome = await updated(cluster, turn, update, (digests) => (poisoned = digests)).catch((error: unknown) => error)
      if (!CkptError.is(outcome)) {
        if (outcome instanceof Error) throw outcome
        continue
      }
      // The first rank that noticed it may have told the others before they did.
      const error: unknown = outcome.code === 'ABORTED' ? outcome.cause : outcome
      expect(CkptError.is(error, 'UNSUPPORTED'), outcome.message).toBe(true)
      expect(outcome.message).toMatch(/\/dev\/shm|PID namespace|temporary|network/)
      // Refused before any engine is given a byte.
      expect(await digestsOf(cluster)).toEqual(poisoned)
      await cluster.settle('unregister', () => ({ name: 'c' }))
    }
  })
})

describe('a host that is cut off', { timeout: 120_000 }, () => {
  it('joins by metas of an address that it can reach, and reports the source as lost when its link goes', async (context) => {
    const [checkpoint] = checkpoints
    await using made = await start(context, { count: 2 }, [0])
    const [, there] = made.hosts.hosts
    const path = join(directory, 'metas')
    await made.cluster.register('c', checkpoint!.directory)
    await made.cluster.all('gatherMetas', () => ({ name: 'c', digests: true }))
    await made.cluster.ranks[0]!.call('saveMetas', { name: 'c', path })
    await using joining = await Cluster.start({
      ranks: 1,
      timeoutMs: 5000,
      through: () => there!.through,
      engine: { kind: 'typescript', checkpoint: checkpoint!.directory },
    })
    await joining.all('loadMetas', () => ({ path }))
    await joining.engines[0]!.poison()
    const [report] = await joining.update('c', { p2p: [0] })
    expect(report).toMatchObject({ verified: 'sources', bytes: checkpoint!.bytes })
    expect(await joining.engines[0]!.verify(checkpoint!.files)).toMatchObject({ verified: true })
    there!.link('down')
    await expect(joining.update('c', { p2p: [0] })).rejects.toMatchObject({
      code: expect.stringMatching(/METAS_STALE|PEER_LOST/) as string,
    })
    there!.restore()
    await joining.update('c', { p2p: [0] })
    expect(await joining.engines[0]!.verify(checkpoint!.files)).toMatchObject({ verified: true })
  })
})
