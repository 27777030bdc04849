import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { model } from '@ckpt/models'
import { createHost, endsProcesses, probeUcx } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster, type ClusterOptions, generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/testing'

const host = createHost()
const MIB = 2 ** 20

describe('p2p', { timeout: 180_000 }, () => {
  let checkpoint: GeneratedCheckpoint
  let directory: string
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 48 * MIB, 21n, 'p2p')
    directory = mkdtempSync(join(tmpdir(), 'ckpt-p2p-'))
  })
  afterAll(() => {
    checkpoint[Symbol.dispose]()
    rmSync(directory, { recursive: true })
  })

  const start = (ranks: number, more: Partial<ClusterOptions> = {}) =>
    Cluster.start({ ranks, timeoutMs: 20_000, engine: { kind: 'typescript', checkpoint: checkpoint.directory }, ...more })

  /** Ranks that hold the checkpoint, without engines: each has `all` of it, or a share. */
  const owners = async (ranks: number, metas: string, all = false) => {
    const cluster = await Cluster.start({ ranks, timeoutMs: 20_000, heartbeatTimeoutMs: 2000 })
    if (all) await cluster.all('register', () => ({ name: 'a', source: { directory: checkpoint.directory }, options: {} }))
    else await cluster.register('a', checkpoint.directory)
    await cluster.all('gatherMetas', () => ({ name: 'a', digests: true }))
    await cluster.ranks[0]!.call('saveMetas', { name: 'a', path: metas })
    return cluster
  }

  const join_ = async (cluster: Cluster, metas: string, more: object = {}) => {
    await cluster.all('loadMetas', () => ({ path: metas }))
    const ranks = cluster.ranks.map(({ rank }) => rank)
    return cluster.update('a', { p2p: ranks, ...more })
  }

  const expectVerified = async (cluster: Cluster) => {
    for (const engine of cluster.engines) {
      expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
    }
  }

  const failure = async (promise: Promise<unknown>) => {
    const error = await promise.then(
      () => expect.unreachable('it should have failed'),
      (reason: unknown) => reason as CkptError,
    )
    return error.code === 'ABORTED' && CkptError.is(error.cause) ? error.cause : error
  }

  it('over UCX, where it is: the bytes and the report say so', async (context) => {
    const { version, problem } = await probeUcx()
    if (version === undefined) return context.skip(problem)
    if (endsProcesses(version)) return context.skip(`UCX ${version} can end the process`)
    const env = () => ({ CKPT_WIRE: 'ucx', CKPT_TRUSTED_NETWORK: '1', UCX_TLS: 'tcp' })
    await using cluster = await start(2, { env })
    await cluster.ranks[0]!.call('register', { name: 'a', source: { directory: checkpoint.directory }, options: {} })
    await cluster.all('gatherMetas', () => ({ name: 'a', digests: true }))
    const request = { name: 'a', engineSocket: cluster.engines[1]!.socket, p2p: [1] }
    const report = await cluster.ranks[1]!.call('update', request)
    expect(report.pull!.sources).toEqual([{ rank: 0, bytes: report.pull!.bytes, wire: 'ucx' }])
    expect(await cluster.engines[1]!.verify(checkpoint.files)).toMatchObject({ verified: true })
  })

  it('ranks of one world pull from the others, which take no part', async () => {
    await using cluster = await start(4)
    // Ranks 0 and 1 hold the checkpoint.
    for (const index of [0, 1]) {
      const options = { share: { index, count: 2 } }
      await cluster.ranks[index]!.call('register', { name: 'a', source: { directory: checkpoint.directory }, options })
    }
    await cluster.all('gatherMetas', () => ({ name: 'a', digests: true }))
    const reports = await Promise.all(
      [2, 3].map((rank) =>
        cluster.ranks[rank]!.call('update', {
          name: 'a',
          engineSocket: cluster.engines[rank]!.socket,
          p2p: [2, 3],
          keep: true,
        }),
      ),
    )
    for (const [index, report] of reports.entries()) {
      expect(report).toMatchObject({ strategy: 'p2p', rank: index + 2, verified: 'sources', bytes: checkpoint.bytes })
      expect(report.pull!.sources.map(({ rank }) => rank)).toEqual([0, 1])
      expect(await cluster.engines[index + 2]!.verify(checkpoint.files)).toMatchObject({ verified: true })
    }
    // Every byte was pulled once, apart from padding between tensors, and each of the two pulled about half.
    const pulled = reports.map((report) => report.pull!.bytes)
    expect(pulled[0]! + pulled[1]!).toBeGreaterThanOrEqual(checkpoint.bytes)
    expect(pulled[0]! + pulled[1]!).toBeLessThan(1.02 * checkpoint.bytes)
    expect(Math.max(...pulled)).toBeLessThan(0.6 * checkpoint.bytes)
    // All of them can be updated by a broadcast afterwards, also using only what the receivers kept.
    for (const index of [0, 1]) await cluster.ranks[index]!.call('unregister', { name: 'a' })
    await cluster.update('a')
    await expectVerified(cluster)
  })

  it.each([1, 2, 3])('%d ranks join from saved metas, in a ring far smaller than the checkpoint', async (ranks) => {
    const metas = join(directory, `metas-${ranks}`)
    await using old = await owners(2, metas)
    expect(statSync(metas).mode & 0o777).toBe(0o600)
    await using joining = await start(ranks)
    const reports = await join_(joining, metas, { ringBytes: 12 * MIB, bucketBytes: MIB })
    expect(reports[0]).toMatchObject({ strategy: 'p2p', mode: 'pipelined', verified: 'sources', bytes: checkpoint.bytes })
    expect(reports[0]!.pull!.lost).toEqual([])
    await expectVerified(joining)
    await Promise.all(joining.engines.map((engine) => engine.poison()))
    // Again, although nothing was kept.
    await joining.update('a', { p2p: joining.ranks.map(({ rank }) => rank), verify: false })
    await expectVerified(joining)
    expect(old.ranks).toHaveLength(2)
  })

  /** Most of the checkpoint still waits for room in the ring when the first buckets have been read. */
  const narrow = { ringBytes: 9 * MIB, bucketBytes: 512 * 1024 }

  const signalOnceRead = async (cluster: Cluster, rank: number, signal: 'SIGKILL' | 'SIGSTOP') => {
    const victim = cluster.ranks[rank]!
    while ((await victim.call('servedBytes', undefined)) === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    victim.process.child.kill(signal)
  }

  // A stopped source closes no connection, like one whose machine lost power: only its silence shows it.
  it.each([
    ['is killed', 'SIGKILL', {}],
    ['falls silent', 'SIGSTOP', { timeoutMs: 16_000 }],
  ] as const)('replaces a source that %s in the middle by one that holds the same', async (_, signal, options) => {
    const metas = join(directory, `metas-${signal}`)
    await using old = await owners(2, metas, true)
    await using joining = await start(2)
    await joining.all('loadMetas', () => ({ path: metas }))
    const updating = joining.update('a', { p2p: [0, 1], ...narrow, ...options })
    await signalOnceRead(old, 1, signal)
    const reports = await updating
    const lost = reports.flatMap((report) => report.pull!.lost)
    expect(lost.length).toBeGreaterThan(0)
    expect(lost.every(({ rank, code }) => rank === 1 && code === 'PEER_LOST')).toBe(true)
    expect(reports.some((report) => report.pull!.sources.some(({ rank, bytes }) => rank === 1 && bytes > 0))).toBe(true)
    await expectVerified(joining)
    old.ranks[1]!.process.child.kill('SIGCONT')
  })

  it('receivers that keep what they pull are sources of it for the next ones', async () => {
    const [first, both, last] = ['metas-first', 'metas-both', 'metas-last'].map((name) => join(directory, name))
    await using old = await owners(1, first!)
    await using second = await start(2)
    await join_(second, first!, { keep: true })
    await expectVerified(second)
    const gathered = await second.all('gatherMetas', () => ({ name: 'a', digests: true }))
    expect(gathered[0]!.tensors).toBe(checkpoint.tensors)
    await second.ranks[0]!.call('saveMetas', { name: 'a', path: both! })
    // Two at once: each of them reads from all sources, about a third from each.
    await using third = await start(1)
    await using fourth = await start(1)
    for (const [report] of await Promise.all([join_(third, both!, { keep: true }), join_(fourth, both!)])) {
      expect(report).toMatchObject({ verified: 'sources', bytes: checkpoint.bytes, pull: { lost: [] } })
      expect(report!.pull!.sources.map(({ rank }) => rank)).toEqual([0, 1, 2])
      for (const { bytes } of report!.pull!.sources) expect(bytes).toBeLessThan((1.2 * checkpoint.bytes) / 3)
    }
    await expectVerified(third)
    await expectVerified(fourth)
    // Ranks that join now do so without the original source.
    await old.ranks[0]!.process.stop('SIGKILL')
    await using fifth = await start(1)
    const [late] = await join_(fifth, both!, { keep: true })
    expect(late!.pull!.lost).toMatchObject([{ rank: 0, code: 'PEER_LOST' }])
    expect(late!.pull!.sources.map(({ rank }) => rank)).toEqual([1, 2])
    await expectVerified(fifth)
    // The metas that it passes on do not name the lost rank: only the two of the second instance, and itself.
    await fifth.all('gatherMetas', () => ({ name: 'a', digests: true }))
    await fifth.ranks[0]!.call('saveMetas', { name: 'a', path: last! })
    const { ranks } = JSON.parse(readFileSync(last!, 'utf8')) as { ranks: { rank: number }[] }
    expect(ranks.map(({ rank }) => rank)).toEqual([1, 2, 3])
    // Kept once: the same name cannot be used again. It is a checkpoint like any other.
    expect(await failure(join_(fifth, last!, { keep: true }))).toMatchObject({ code: 'CHECKPOINT_EXISTS' })
    await fifth.engines[0]!.poison()
    await fifth.update('a')
    await expectVerified(fifth)
  })

  it('compares no memory of a receiver that has the number of a source', async () => {
    // Its workers keep parts of scales whose sums do not add up to the tensors' digests: a rank that holds the tensor would vouch.
    using scaled = await generateCheckpoint(host, model('deepseek-v3.1'), 48 * MIB, 22n, 'p2p-scaled')
    const metas = join(directory, 'scaled.json')
    await using source = await Cluster.start({ ranks: 2, timeoutMs: 20_000, heartbeatTimeoutMs: 2000 })
    await source.register('a', scaled.directory)
    await source.all('gatherMetas', () => ({ name: 'a', digests: true }))
    await source.ranks[0]!.call('saveMetas', { name: 'a', path: metas })
    await using cluster = await Cluster.start({
      ranks: 2,
      timeoutMs: 20_000,
      engine: { kind: 'typescript', checkpoint: scaled.directory },
    })
    const reports = await join_(cluster, metas, { verify: 'bytes' })
    expect(reports.map(({ verified }) => verified)).toEqual(['sources', 'sources'])
    for (const engine of cluster.engines) {
      expect(await engine.verify(scaled.files)).toMatchObject({ verified: true, mismatches: [] })
    }
  })

  it('names the tensors that a killed source alone held', async () => {
    const metas = join(directory, 'metas-alone')
    await using old = await owners(2, metas)
    await using joining = await start(1)
    await joining.all('loadMetas', () => ({ path: metas }))
    const updating = failure(joining.update('a', { p2p: [0], ...narrow }))
    await signalOnceRead(old, 1, 'SIGKILL')
    const error = await updating
    expect(error.code).toBe('PEER_LOST')
    expect(error.fields['tensors']).toEqual(expect.arrayContaining([error.fields.tensor]))
    expect(error.message).toContain(error.fields.tensor)
    expect(error.fields.ranks).toEqual([1])
  })

  it('recognises metas of what is not there any more, and reads nothing', async () => {
    const metas = join(directory, 'metas-stale')
    const again = join(directory, 'metas-again')
    await using joining = await start(1)
    {
      await using old = await owners(1, metas)
      // Registered again: the same bytes, but the old keys are refused.
      await old.ranks[0]!.call('unregister', { name: 'a' })
      const unregistered = await failure(join_(joining, metas))
      const ended = { code: 'METAS_STALE', fields: { checkpoint: 'a', ranks: [0], sources: [{ rank: 0, reason: 'ended' }] } }
      expect(unregistered).toMatchObject(ended)
      expect(unregistered.message).toContain('the registration 1 that the metas describe has ended')
      await old.register('a', checkpoint.directory)
      await old.all('gatherMetas', () => ({ name: 'a', digests: true }))
      await old.ranks[0]!.call('saveMetas', { name: 'a', path: again })
      expect(await failure(join_(joining, metas))).toMatchObject(ended)
      expect(await old.ranks[0]!.call('servedBytes', undefined)).toBe(0)
      await join_(joining, again)
      await expectVerified(joining)
    }
    // The owner is gone.
    const gone = { ranks: [0], sources: [{ rank: 0, reason: 'gone' }] }
    expect(await failure(join_(joining, again))).toMatchObject({ code: 'METAS_STALE', fields: gone })
    expect(await joining.engines[0]!.health()).toMatchObject({ version: 'a' })
  })

  it('joins through the coordinator, with the token of the run', async () => {
    await using old = await Cluster.start({ ranks: 2, timeoutMs: 20_000 })
    await old.register('a', checkpoint.directory)
    await old.all('gatherMetas', () => ({ name: 'a', digests: true }))
    await using joining = await start(1)
    const fetch_ = (token: string) =>
      joining.all('fetchMetas', () => ({ name: 'a', address: old.address, token, timeoutMs: 3000 }))
    expect(await failure(fetch_(old.token))).toMatchObject({ code: 'CHECKPOINT_UNKNOWN', fields: { checkpoint: 'a' } })
    await old.ranks[1]!.call('publishMetas', { name: 'a' })
    expect(await failure(fetch_('of another'))).toMatchObject({ code: 'RENDEZVOUS_REJECTED' })
    await fetch_(old.token)
    await joining.update('a', { p2p: [0] })
    await expectVerified(joining)
    // The running ranks are not affected.
    await old.all('gatherMetas', () => ({ name: 'a' }))
    // Published data is removed with the checkpoint.
    await old.ranks[1]!.call('unregister', { name: 'a' })
    await expect.poll(() => failure(fetch_(old.token))).toMatchObject({ code: 'METAS_STALE', fields: { checkpoint: 'a' } })
  })

  it('keeps a secret that the environment gives out of the file', async () => {
    const metas = join(directory, 'metas-secret')
    const secret = 'a secret that the environment gives'
    await using old = await Cluster.start({ ranks: 1, env: () => ({ CKPT_P2P_SECRET: secret }) })
    await old.register('a', checkpoint.directory)
    await old.all('gatherMetas', () => ({ name: 'a' }))
    await old.ranks[0]!.call('saveMetas', { name: 'a', path: metas })
    expect(readFileSync(metas, 'utf8')).not.toContain(secret)
    await using without = await start(1)
    expect(await failure(join_(without, metas))).toMatchObject({
      code: 'METAS_MALFORMED',
      fields: { file: metas, field: 'CKPT_P2P_SECRET' },
    })
    await using wrong = await start(1, { env: () => ({ CKPT_P2P_SECRET: 'another secret, just as long' }) })
    const error = await failure(join_(wrong, metas, { verify: false }))
    expect(error.code).toBe('METAS_STALE')
    expect(CkptError.is(error.cause, 'PEER_UNAUTHORIZED')).toBe(true)
    await using right = await start(1, { env: () => ({ CKPT_P2P_SECRET: secret }) })
    await join_(right, metas, { verify: false })
    await expectVerified(right)
  })
})
