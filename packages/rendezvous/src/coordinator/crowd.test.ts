import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { availableParallelism, loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'

import { expect, it, onTestFinished } from 'vitest'

import { fetchPublished, joinRendezvous, startCoordinator } from '../index.ts'

const TOKEN = 'the secret of this run'
const STRANGERS = 2000
/** For one call of a rank on an otherwise idle machine. */
const ANSWER_MS = 1000
/** A greeting of ZMTP 3.1 whose mechanism is CURVE. */
const greeting = Buffer.concat([
  Buffer.from('ff00000000000000017f0301', 'hex'),
  Buffer.from('CURVE'.padEnd(20, '\0')),
  Buffer.alloc(32),
])
const hello = Buffer.concat([greeting, Buffer.from('04c80548454c4c4f0100', 'hex'), Buffer.alloc(192, 7)])
const frame = (head: string, bytes: number) => Buffer.concat([greeting, Buffer.from(head, 'hex'), Buffer.alloc(bytes)])

/** What a rank sent on a connection on which it joined, gathered and left. */
async function recordedRank(port: number): Promise<Buffer> {
  const parts: Buffer[] = []
  const wire = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    near.on('data', (part: Buffer) => void parts.push(part)).pipe(far)
    far.pipe(near)
    for (const socket of [near, far]) socket.on('error', () => undefined)
  }).listen(0, '127.0.0.1')
  await once(wire, 'listening')
  const address = `tcp://127.0.0.1:${(wire.address() as AddressInfo).port}`
  const rank = await joinRendezvous({ rank: 1, worldSize: 2, address, standalone: true, token: TOKEN, timeoutMs: 20_000 })
  await rank.allGather('alone', 1, { ranks: [1] })
  await rank.close()
  wire.close()
  return Buffer.concat(parts)
}

it.each([
  ['silent', () => Buffer.alloc(0)],
  ['a greeting and no more', () => greeting],
  ['a made-up handshake', () => hello],
  ['a huge frame', () => frame('0600000000ffffffff', 1000)],
  ['noise', () => Buffer.alloc(20_000, 0xff)],
  ['what a rank sent, again', recordedRank],
] as const)(
  `a coordinator that strangers crowd, ${STRANGERS} connections each, answers who has the secret: %s`,
  { timeout: 180_000 },
  async (name, bytesOf) => {
    const coordinator = await startCoordinator({ address: 'tcp://127.0.0.1:0', worldSize: 2, token: TOKEN })
    onTestFinished(() => coordinator.close())
    const { address } = coordinator
    const port = Number(new URL(address).port)
    const first = await bytesOf(port)
    const ranks = await Promise.all(
      [0, 1].map((rank) => joinRendezvous({ rank, worldSize: 2, address, standalone: true, token: TOKEN, timeoutMs: 60_000 })),
    )
    onTestFinished(async () => {
      await Promise.all(ranks.map((rank) => rank.close()))
    })
    ranks[0]!.publish('what', Buffer.from('published'))
    const stranger = fork(fileURLToPath(new URL('../testing/stranger.fixture.ts', import.meta.url)), {
      execArgv: ['--import', 'tsx', '--conditions=@ckpt/source'],
    })
    onTestFinished(() => void stranger.kill('SIGKILL'))
    await once(stranger, 'message')
    const before = process.memoryUsage.rss()
    let report: { opened: number } | undefined
    stranger.once('message', (message: { opened: number }) => (report = message))
    stranger.send({ port, first: first.toString('base64'), count: STRANGERS })
    const times: number[] = []
    while (report === undefined) {
      const started = performance.now()
      // By existing members, and by one that joins now.
      const values = await Promise.all(ranks.map((rank) => rank.allGather('key', rank.rank)))
      expect(values).toEqual([
        [0, 1],
        [0, 1],
      ])
      expect(await fetchPublished('what', { address, token: TOKEN, timeoutMs: 60_000 })).toEqual(Buffer.from('published'))
      times.push(performance.now() - started)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const longest = Math.round(Math.max(...times))
    const grown = Math.round((process.memoryUsage.rss() - before) / 2 ** 20)
    console.log(`${name}: ${JSON.stringify(report)}, ${times.length} answers, longest ${longest} ms, ${grown} MiB more`)
    expect(report.opened).toBe(STRANGERS)
    expect(times.length).toBeGreaterThan(0)
    // Other programs may use this machine's processors meanwhile.
    expect(longest).toBeLessThan(ANSWER_MS * Math.max(1, (2 * loadavg()[0]!) / availableParallelism()))
    expect(grown).toBeLessThan(256)
    expect(ranks.map(({ lost }) => lost)).toEqual([undefined, undefined])
  },
)
