import { spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  Cluster,
  type ClusterOptions,
  generateCheckpoint,
  Hosts,
  hostsProblem,
  type NamespaceHost,
  SOURCE_FLAGS,
} from '@ckpt/testing'

const MIB = 2 ** 20
/** True if the machine is otherwise idle, so that figures are meaningful; more are measured then. */
const quiet = process.env['CKPT_QUIET'] !== undefined
const ROUNDS = quiet ? 8 : 2
const UPDATES = 8
const host = createHost()

/** Networks of their own, with one machine's memory and files. */
const NETWORKS = { shm: false, tmp: false, ipc: false, pid: false, name: false }
const problem = hostsProblem(NETWORKS)
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!

describe('two hosts', { timeout: 120_000 }, () => {
  let pair: Hosts | undefined
  beforeAll(async () => {
    if (problem === undefined) pair = await Hosts.create({ count: 2, ...NETWORKS })
  })
  afterAll(() => pair?.[Symbol.asyncDispose]())

  /**
   * A cluster on one of the hosts, which has its own core if there are two. The second host represents another machine: it
   * yields to this test's own process, which would otherwise move to the first host's core while that is measured.
   */
  const on = (which: 0 | 1, ranks: number, directory: string, more: Partial<ClusterOptions> = {}) => {
    const machine = pair!.hosts[which]!
    const core = availableParallelism() > 1 ? ['taskset', '-c', String(which)] : []
    const priority = which === 1 ? ['nice', '-n', '10'] : []
    return Cluster.start({
      ranks,
      timeoutMs: 30_000,
      through: [...machine.through, ...core, ...priority],
      env: () => ({ CKPT_P2P_ADDRESS: machine.address }),
      engine: { kind: 'typescript', checkpoint: directory },
      ...more,
    })
  }

  it('a new instance joins from saved metas, again and again, while the old one is updated', async ({ skip, annotate }) => {
    if (problem !== undefined) skip(problem)
    using checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 64 * MIB, 31n, 'hosts')
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-hosts-'))
    try {
      const metas = join(directory, 'metas')
      await using old = await on(0, 1, checkpoint.directory, { keepAlive: true })
      await old.register('a', checkpoint.directory)
      await old.update('a')
      await old.ranks[0]!.call('saveMetas', { name: 'a', path: metas })
      await using joining = await on(1, 1, checkpoint.directory)
      await joining.all('loadMetas', () => ({ path: metas }))
      const join_ = async () => {
        await joining.engines[0]!.poison()
        return (await joining.update('a', { p2p: [0] }))[0]!
      }
      const served = () => old.ranks[0]!.call('servedBytes', undefined)
      const update = async () => (await old.update('a'))[0]!.totalMs
      for (let i = 0; i < 12; i++) await update() // warm
      await join_()
      const before = await served()
      let joins = 0
      const pulls: number[] = []
      const alone: number[] = []
      const beside: number[] = []
      const measureAlone = async () => {
        for (let i = 0; i < UPDATES; i++) alone.push(await update())
      }
      /** Updates while the other instance joins repeatedly; only those during which something was pulled count. */
      const measureBeside = async () => {
        const state = { over: false }
        const loop = (async () => {
          while (!state.over) {
            const report = await join_()
            joins++
            expect(report).toMatchObject({ verified: 'sources', bytes: checkpoint.bytes })
            expect(report.pull!.sources.map(({ rank }) => rank)).toEqual([0])
            pulls.push(report.pull!.busyMs)
          }
        })()
        for (let counted = 0; counted < UPDATES;) {
          const served_ = await served()
          const ms = await update()
          if ((await served()) === served_) continue
          beside.push(ms)
          counted++
        }
        state.over = true
        await loop
      }
      // Alternating, each first equally often, so that other load on the machine affects both equally.
      for (let round = 0; round < ROUNDS; round++) {
        for (const measure of round % 2 === 0 ? [measureAlone, measureBeside] : [measureBeside, measureAlone]) await measure()
      }
      expect((await served()) - before).toBeGreaterThanOrEqual(joins * checkpoint.bytes)
      // Bit for bit, and its source still serves.
      expect(await joining.engines[0]!.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
      expect(await old.engines[0]!.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
      const ratio = median(beside) / median(alone)
      const figures = `${joins} joins, which pulled for ${median(pulls).toFixed(0)} ms each; updates of the old instance: median of ${alone.length} ${median(alone).toFixed(1)} ms alone, ${median(beside).toFixed(1)} ms beside, ratio ${ratio.toFixed(2)}`
      await annotate(figures)
      if (process.env['CKPT_PRINT'] !== undefined) console.log(figures)
      // Figures are meaningful only on a quiet machine.
      if (quiet) expect(ratio).toBeLessThanOrEqual(1.1)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it('a one-sided read is at least 80 % as fast as iperf3 with as many streams', async ({ skip, annotate }) => {
    if (problem !== undefined) skip(problem)
    if (spawnSync('iperf3', ['--version']).status !== 0) skip('no iperf3')
    const bytes = Number(process.env['CKPT_READ_BYTES'] ?? 512 * MIB)
    const streams = 2
    const [serving, reading] = pair!.hosts as readonly [NamespaceHost, NamespaceHost]
    const program = new URL('./strangers/one-sided.child.ts', import.meta.url).pathname
    const start = (where: NamespaceHost, command: string, args: readonly string[]): ChildProcess =>
      where.spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    const node = (where: NamespaceHost, args: readonly string[]) =>
      start(where, process.execPath, [...SOURCE_FLAGS, program, ...args])
    const server = node(serving, ['serve', `${serving.address}:0`, String(bytes)])
    const iperf = start(serving, 'iperf3', ['-s', '-1', '-p', '5207'])
    try {
      const described = await firstLine(server)
      const reader = node(reading, ['read', described, String(streams), '3'])
      const ours = JSON.parse(await firstLine(reader)) as { bytesPerSecond: number[]; digestMatches: boolean }
      const client = start(reading, 'iperf3', [
        '-c',
        serving.address,
        '-p',
        '5207',
        '-P',
        String(streams),
        '-R',
        '-J',
        '-n',
        String(Math.floor(bytes / streams)),
      ])
      const report = JSON.parse(await everything(client)) as { end: { sum_received: { bits_per_second: number } } }
      const theirs = report.end.sum_received.bits_per_second / 8
      const best = Math.max(...ours.bytesPerSecond)
      expect(ours.digestMatches).toBe(true)
      const figures = `${bytes / MIB} MiB over ${streams} streams: ${(best / 1e9).toFixed(2)} GB/s, iperf3 ${(theirs / 1e9).toFixed(2)} GB/s, ratio ${(best / theirs).toFixed(2)}`
      await annotate(figures)
      if (process.env['CKPT_PRINT'] !== undefined) console.log(figures)
      if (quiet) expect(best / theirs).toBeGreaterThanOrEqual(0.8)
    } finally {
      server.kill()
      iperf.kill()
    }
  })
})

async function firstLine(child: ChildProcess): Promise<string> {
  let text = ''
  for await (const piece of child.stdout!.setEncoding('utf8') as AsyncIterable<string>) {
    text += piece
    const end = text.indexOf('\n')
    if (end >= 0) return text.slice(0, end)
  }
  throw new Error(`ended without a line: ${text}`)
}

async function everything(child: ChildProcess): Promise<string> {
  let text = ''
  child.stdout!.setEncoding('utf8').on('data', (piece: string) => (text += piece))
  await once(child, 'close')
  return text
}
