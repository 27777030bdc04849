import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  Cluster,
  copyCheckpoint,
  type CopiedCheckpoint,
  generateCheckpoint,
  Hosts,
  hostsProblem,
  type NamespaceHost,
} from '@ckpt/testing'

const MIB = 2 ** 20
const SIZE = 8 * MIB
const JOINERS = 8
/** So slow that processors have little to do: time is that of the links. */
const LINK = { bytesPerSecond: 2 * MIB }
/** Every host would have processors of its own: none of them yields to the others. */
const env = () => ({ CKPT_P2P_NICENESS: '0' })
const problem = hostsProblem()

describe('joiners of one source, each on a host with the same link', { timeout: 240_000 }, () => {
  let directory: string
  let checkpoint: CopiedCheckpoint
  let hosts: Hosts | undefined
  let source: Cluster | undefined
  let metas: string
  const startSource = async (): Promise<void> => {
    const [place] = hosts!.hosts
    source = await Cluster.start({
      ranks: 1,
      coordinator: place!.address,
      timeoutMs: 60_000,
      env,
      through: () => place!.through,
    })
    await source.register('c', checkpoint.directory)
    await source.all('gatherMetas', () => ({ name: 'c', digests: true }))
    rmSync(metas, { force: true })
    await source.ranks[0]!.call('saveMetas', { name: 'c', path: metas })
  }
  beforeAll(async () => {
    if (problem !== undefined) return
    directory = mkdtempSync(join(tmpdir(), 'ckpt-join-'))
    metas = join(directory, 'metas')
    using made = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), SIZE, 3n, 'join')
    checkpoint = copyCheckpoint(made, join(directory, 'checkpoint'))
    hosts = await Hosts.create({ count: JOINERS + 1, link: LINK })
    await startSource()
  })
  afterAll(async () => {
    await source?.close()
    await hosts?.[Symbol.asyncDispose]()
    if (problem === undefined) rmSync(directory, { recursive: true })
  })

  const start = async (places: readonly NamespaceHost[]): Promise<Cluster> => {
    const cluster = await Cluster.start({
      ranks: places.length,
      coordinator: places[0]!.address,
      timeoutMs: 60_000,
      heartbeatTimeoutMs: 20_000,
      threads: 1,
      env,
      through: (rank) => places[rank]!.through,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory },
    })
    await cluster.all('loadMetas', () => ({ path: metas }))
    return cluster
  }
  const pulled = async (cluster: Cluster) => {
    const ranks = cluster.ranks.map(({ rank }) => rank)
    const from = performance.now()
    const reports = await cluster.update('c', { p2p: ranks, bucketBytes: MIB / 4 })
    const ms = performance.now() - from
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
    return { ms, reports }
  }

  it('read each byte from it about once, and the rest from each other; all complete though it is lost half-way', async ({
    skip,
    annotate,
  }) => {
    if (problem !== undefined) skip(problem)
    const places = hosts!.hosts.slice(1)
    const served = () => source!.ranks[0]!.call('servedBytes', undefined)
    const alone = await (async () => {
      await using one = await start(places.slice(0, 1))
      return await pulled(one)
    })()
    await using all = await start(places)
    const before = await served()
    const { ms, reports } = await pulled(all)
    const read = (await served()) - before
    const figures = `one joiner ${alone.ms.toFixed(0)} ms, ${JOINERS} joiners ${ms.toFixed(0)} ms: ${(ms / alone.ms).toFixed(2)} times; ${(read / checkpoint.bytes).toFixed(2)} checkpoints read from the source`
    await annotate(figures)
    if (process.env['CKPT_PRINT'] !== undefined) console.log(figures)
    expect(read).toBeLessThan(1.1 * checkpoint.bytes)
    for (const { pull } of reports) expect(pull!.receivers!.length).toBeGreaterThan(0)
    if (process.env['CKPT_QUIET'] !== undefined) expect(ms / alone.ms).toBeLessThanOrEqual(3.5)

    // As soon as every byte has left it.
    await Promise.all(all.engines.map((engine) => engine.poison()))
    const start_ = await served()
    const state = { lost: false, over: false }
    const losing = (async () => {
      while (!state.over && (await served()) - start_ < checkpoint.bytes)
        await new Promise((resolve) => setTimeout(resolve, 20))
      state.lost = !state.over
      await hosts!.hosts[0]!.kill()
    })()
    await pulled(all).finally(() => (state.over = true))
    await losing
    expect(state.lost).toBe(true)
  })
})
