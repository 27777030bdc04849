import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, type GeneratedCheckpoint, Hosts, hostsProblem } from '@ckpt/testing'

// Containers of one host: the same host name, and separate namespaces. Process ids, descriptor numbers and names in /dev/shm
// coincide.

const PID = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']
const SHM = ['unshare', '--mount', 'sh', '-c', 'mount -t tmpfs -o size=512m tmpfs /dev/shm && exec "$0" "$@"']
const IPC = ['unshare', '--ipc']

const host = createHost()
let before: GeneratedCheckpoint
let after: GeneratedCheckpoint
/** Outside /dev/shm. */
let copies: string
beforeAll(async () => {
  const make = (seed: bigint, label: string) => generateCheckpoint(host, model('qwen3-30b-a3b'), 12 * 2 ** 20, seed, label)
  before = await make(1n, 'namespaces-before')
  after = await make(1_000_000n, 'namespaces-after')
  copies = mkdtempSync(join(tmpdir(), 'ckpt-namespaces-'))
  for (const { directory } of [before, after])
    cpSync(directory, join(copies, directory.split('/').at(-1)!), { recursive: true })
})
afterAll(() => {
  for (const one of [before, after]) one[Symbol.dispose]()
  rmSync(copies, { recursive: true })
})
const copyOf = ({ directory }: GeneratedCheckpoint): string => join(copies, directory.split('/').at(-1)!)

const filesOf = (checkpoint: GeneratedCheckpoint): string[] =>
  checkpoint.files.map((file) => join(copyOf(checkpoint), file.slice(checkpoint.directory.length + 1)))

function unavailable([command, ...args]: readonly string[]): string | undefined {
  const probe = spawnSync(command!, [...args, 'true'], { encoding: 'utf8' })
  return probe.status === 0 ? undefined : (probe.error?.message ?? probe.stderr)
}

describe('ranks in PID namespaces of their own, where all are process 1', () => {
  it.for([
    ['share their memory by descriptors, which lead elsewhere there', false, /PID namespace/],
    ['use files in /dev/shm, which all of them see', true, undefined],
  ] as const)('%s', { timeout: 240_000 }, async ([, inPlace, reason], { skip }) => {
    const why = unavailable(PID)
    if (why !== undefined) skip(`no PID namespaces: ${why}`)
    await using cluster = await Cluster.start({
      ranks: 2,
      timeoutMs: 60_000,
      shareMemory: !inPlace,
      through: PID,
      engine: { kind: 'typescript', checkpoint: before.directory },
    })
    const options = { inPlace }
    await cluster.register('before', before.directory, options)
    await cluster.update('before', { strategy: 'direct' })
    await cluster.register('after', after.directory, options)
    for (let turn = 0; turn < 2; turn++) {
      await Promise.all(cluster.engines.map((engine) => engine.poison()))
      const reports = await cluster.update('after', { strategy: 'direct', version: `after-${turn}` })
      for (const report of reports) {
        expect(report.verified).toBeTruthy()
        if (reason === undefined) expect(report.direct?.fallback).toBeUndefined()
        else expect(report.direct?.fallback).toMatch(reason)
      }
      for (const engine of cluster.engines) expect(await engine.verify(after.files)).toMatchObject({ verified: true })
    }
  })
})

describe('ranks of one host name', () => {
  it.for(['broadcast', 'p2p', 'direct'] as const)(
    'that share no /dev/shm with others pull what those hold, in a %s update',
    { timeout: 240_000 },
    async (strategy, { skip }) => {
      const only = { net: false, tmp: false, pid: false, ipc: false, name: false }
      const problem = hostsProblem(only)
      if (problem !== undefined) skip(problem)
      await using apart = await Hosts.create({ count: 1, ...only })
      await using cluster = await Cluster.start({
        ranks: 3,
        timeoutMs: 60_000,
        env: () => ({ CKPT_P2P_ADDRESS: '127.0.0.1' }),
        through: (rank) => (rank === 1 ? apart.hosts[0]!.through : []),
        engine: { kind: 'typescript', checkpoint: copyOf(before) },
      })
      const update = strategy === 'p2p' ? { p2p: [0, 1, 2] } : { strategy }
      for (const checkpoint of [after, before, after]) {
        await cluster.register('c', copyOf(checkpoint))
        await cluster.all('gatherMetas', () => ({ name: 'c', digests: true }))
        await Promise.all(cluster.engines.map((engine) => engine.poison()))
        for (const report of await cluster.update('c', update)) expect(report.verified).toBeTruthy()
        for (const engine of cluster.engines) {
          expect(await engine.verify(filesOf(checkpoint))).toMatchObject({ verified: true, mismatches: [] })
        }
        await cluster.all('unregister', () => ({ name: 'c' }))
      }
    },
  )

  it('whose engine has a /dev/shm of its own say so', { timeout: 240_000 }, async ({ skip }) => {
    const why = unavailable(SHM)
    if (why !== undefined) skip(`no mount namespaces: ${why}`)
    // `unshare` separates a rank from its engine, too.
    await using cluster = await Cluster.start({
      ranks: 2,
      timeoutMs: 60_000,
      env: () => ({ CKPT_P2P_ADDRESS: '127.0.0.1' }),
      through: (rank) => (rank === 1 ? SHM : []),
      engine: { kind: 'typescript', checkpoint: copyOf(before) },
    })
    await cluster.register('after', copyOf(after))
    const updates = (rank: number) =>
      ({ name: 'after', engineSocket: cluster.engines[rank]!.socket, strategy: 'broadcast' }) as const
    const outcomes = await cluster.settle('update', updates)
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    const reasons = outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as Error).message : ''))
    for (const reason of reasons) expect(reason).toMatch(/engine worker of rank 1.*\/dev\/shm\/ckpt-/)
  })

  it('with an IPC namespace of their own, but one /dev/shm, are near each other', { timeout: 240_000 }, async ({ skip }) => {
    const why = unavailable(IPC)
    if (why !== undefined) skip(`no IPC namespaces: ${why}`)
    await using cluster = await Cluster.start({
      ranks: 2,
      timeoutMs: 60_000,
      shareMemory: true,
      through: IPC,
      engine: { kind: 'typescript', checkpoint: before.directory },
    })
    await cluster.register('before', before.directory)
    await cluster.update('before', { strategy: 'direct' })
    await cluster.register('after', after.directory)
    await cluster.update('after', { strategy: 'direct-required' })
    for (const engine of cluster.engines) expect(await engine.verify(after.files)).toMatchObject({ verified: true })
  })
})
