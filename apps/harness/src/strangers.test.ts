import { readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { tmpdir } from 'node:os'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { generateCheckpoint, type GeneratedCheckpoint } from './checkpoint/generate.ts'
import { Cluster } from './cluster/cluster.ts'
import { spawnSource } from './cluster/processes.ts'
import { attemptAs, noOtherUser, type Targets } from './strangers/local.ts'

const NOBODY = 65_534
const host = createHost()

describe('while strangers try to get in', () => {
  let checkpoint: GeneratedCheckpoint
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * 2 ** 20, 11n)
  })
  afterAll(() => checkpoint[Symbol.dispose]())

  const start = (extra: readonly string[] = []) =>
    Cluster.start({
      ranks: 2,
      timeoutMs: 20_000,
      heartbeatTimeoutMs: 3000,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory, extra: (rank) => (rank === 0 ? extra : []) },
    })

  it('over the network, in great numbers, updates go on in good time', async () => {
    await using cluster = await start()
    await cluster.register('a', checkpoint.directory)
    const quiet = await timed(cluster, 5)
    const before = await cluster.ranks[0]!.call('resources', undefined)
    const flood = spawnSource('flood', new URL('./strangers/flood.child.ts', import.meta.url), [new URL(cluster.address).port])
    await message(flood.child)
    const flooded = await timed(cluster, 40)
    const during = await cluster.ranks[0]!.call('resources', undefined)
    flood.child.send('report')
    const report = (await message(flood.child)) as { made: Record<string, number>; held: number }
    flood.child.disconnect()
    await flood.stop()
    for (const kind of ['silent', 'garbage', 'half a handshake', 'made-up handshake', 'huge frame', 'large command']) {
      expect(report.made[kind]).toBeGreaterThan(10)
    }
    expect(Math.max(...flooded)).toBeLessThan(5000)
    expect(during.residentBytes - before.residentBytes).toBeLessThan(512 * 2 ** 20)
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
    console.log(
      `updates of 24 MiB: median ${median(quiet)} ms alone, ${median(flooded)} ms (longest ${Math.max(...flooded)} ms) beside ${JSON.stringify(report)}`,
    )
  })

  it('as another user of the machine, they neither see, nor change, nor reach anything', async ({ skip }) => {
    const cannot = noOtherUser()
    if (cannot !== undefined) skip(`no other user: ${cannot}`)
    await using cluster = await start(['--stop-at-bucket', '3']) // so that the ring and the worker sockets stay for a while
    await cluster.register('a', checkpoint.directory)
    const updating = cluster.update('a', { bucketBytes: 2 ** 20 })
    updating.catch(() => undefined)
    const targets = await openTargets(cluster)
    try {
      // What is tried here works for the user whose it is.
      const own = attemptAs(0, { ...targets, connect: targets.connect.slice(0, 1) })
      expect(new Set(Object.values(own))).toEqual(new Set(['ok']))
      const others = attemptAs(NOBODY, targets)
      expect(Object.keys(others).length).toBeGreaterThan(20)
      expect(new Set(Object.values(others))).toEqual(new Set(['EACCES']))
    } finally {
      cluster.engines[0]!.process.child.kill('SIGCONT')
    }
    for (const report of await updating) expect(report).toMatchObject({ verified: true })
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
    // Nothing secret stands where everybody can read it.
    for (const { process: spawned } of [...cluster.ranks, ...cluster.engines]) {
      expect(readFileSync(`/proc/${spawned.child.pid}/cmdline`, 'utf8')).not.toContain(cluster.token)
    }
  })

  /** Everything of a running update that has a name, once its worker sockets are there. */
  async function openTargets(cluster: Cluster): Promise<Targets> {
    const pids = [...cluster.ranks, ...cluster.engines].map(({ process: spawned }) => spawned.child.pid!)
    const root = process.env['XDG_RUNTIME_DIR'] ?? tmpdir()
    const deadline = Date.now() + 10_000
    for (;;) {
      const mine = (directory: string) =>
        readdirSync(directory)
          .filter((name) => pids.some((pid) => name.startsWith('ckpt-') && name.includes(`-${pid}-`)))
          .map((name) => join(directory, name))
      const shared = mine('/dev/shm')
      const directories = mine(root)
      const sockets = directories.flatMap((directory) => readdirSync(directory).map((name) => join(directory, name)))
      const workers = sockets.filter((path) => statSync(path, { throwIfNoEntry: false })?.isSocket())
      if (shared.length >= 2 && workers.length >= 2) {
        const controls = cluster.engines.map(({ socket }) => socket)
        return {
          read: [...shared, ...pids.flatMap((pid) => ['environ', 'mem', 'maps'].map((file) => `/proc/${pid}/${file}`))].filter(
            (path) => !path.endsWith('/mem'),
          ),
          write: [...shared, ...pids.map((pid) => `/proc/${pid}/mem`)],
          list: [...directories, ...pids.map((pid) => `/proc/${pid}/fd`), dirname(controls[0]!)],
          connect: [...controls, ...workers],
        }
      }
      if (Date.now() > deadline) throw new Error(`only ${JSON.stringify({ shared, workers })} came up`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  async function timed(cluster: Cluster, times: number): Promise<number[]> {
    const all: number[] = []
    for (let i = 0; i < times; i++) {
      const started = performance.now()
      await cluster.update('a', { version: `${i}`, keepAlive: true, timeoutMs: 5000 })
      all.push(Math.round(performance.now() - started))
    }
    return all
  }
})

function message(child: import('node:child_process').ChildProcess): Promise<unknown> {
  return new Promise((resolve, reject) => {
    child.once('message', resolve)
    child.once('exit', (code) => reject(new Error(`the flood ended with ${code}`)))
  })
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!
}
