import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { generateCheckpoint } from './checkpoint/generate.ts'
import { Cluster, type ClusterOptions } from './cluster/cluster.ts'
import { createHostPair, type HostPair, type NamespaceHost } from './cluster/hosts.ts'
import { SOURCE_FLAGS } from './cluster/processes.ts'

const MIB = 2 ** 20
const host = createHost()

const inside = ({ namespace }: NamespaceHost): string[] => ['nsenter', `--net=/run/netns/${namespace}`]
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!

describe('two hosts', { timeout: 120_000 }, () => {
  let pair: HostPair | undefined
  let problem: string | undefined
  beforeAll(() => {
    const made = createHostPair()
    if ('problem' in made) ({ problem } = made)
    else pair = made
  })
  afterAll(() => pair?.[Symbol.dispose]())

  /** A cluster on one of the hosts, which has a core of its own where there are two. */
  const on = (which: 0 | 1, ranks: number, directory: string, more: Partial<ClusterOptions> = {}) => {
    const machine = pair!.hosts[which]
    const core = availableParallelism() > 1 ? ['taskset', '-c', String(which)] : []
    return Cluster.start({
      ranks,
      timeoutMs: 30_000,
      through: [...inside(machine), ...core],
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
      await join_() // warm
      // In turns, so that what else the machine does meets both alike.
      const alone: number[] = []
      const beside: number[] = []
      let joins = 0
      for (let round = 0; round < 4; round++) {
        for (let i = 0; i < 6; i++) alone.push((await old.update('a'))[0]!.totalMs)
        let over = false
        const loop = (async () => {
          while (!over) {
            const report = await join_()
            joins++
            expect(report).toMatchObject({ verified: true, bytes: checkpoint.bytes })
            expect(report.pull!.sources.map(({ rank }) => rank)).toEqual([0])
          }
        })()
        for (let i = 0; i < 6; i++) beside.push((await old.update('a'))[0]!.totalMs)
        over = true
        await loop
      }
      // Bit for bit, and what it was read from is served still.
      expect(await joining.engines[0]!.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
      expect(await old.engines[0]!.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
      expect(joins).toBeGreaterThanOrEqual(4)
      const ratio = median(beside) / median(alone)
      const figures = `${joins} joins; updates of the old instance: median ${median(alone).toFixed(1)} ms alone, ${median(beside).toFixed(1)} ms beside, ratio ${ratio.toFixed(2)}`
      await annotate(figures)
      if (process.env['CKPT_PRINT'] !== undefined) console.log(figures)
      // Figures count on a quiet machine alone.
      if (process.env['CKPT_QUIET'] !== undefined) expect(ratio).toBeLessThanOrEqual(1.1)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it('a one-sided read is at least 80 % as fast as iperf3 with as many streams', async ({ skip, annotate }) => {
    if (problem !== undefined) skip(problem)
    if (spawnSync('iperf3', ['--version']).status !== 0) skip('no iperf3')
    const bytes = Number(process.env['CKPT_READ_BYTES'] ?? 512 * MIB)
    const streams = 2
    const [serving, reading] = pair!.hosts
    const program = new URL('./cluster/one-sided-main.ts', import.meta.url).pathname
    const start = (where: NamespaceHost, command: string, args: readonly string[]): ChildProcess =>
      spawn('nsenter', [`--net=/run/netns/${where.namespace}`, command, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
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
      if (process.env['CKPT_QUIET'] !== undefined) expect(best / theirs).toBeGreaterThanOrEqual(0.8)
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
