import { fork } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism, loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { EndpointDescriptor } from '@ckpt/contract'
import { describe, expect, it, onTestFinished } from 'vitest'
import { MOST_STRANGERS } from '../bootstrap/strangers.ts'
import type { Assault, Kind, Report } from '../testing/stranger.fixture.ts'
import { BootstrapClient } from './client.ts'
import { RDMA_PROTOCOL, type ResolvedRegion } from './messages.ts'
import { settingsOf } from './options.ts'
import { BootstrapServer } from './server.ts'

const ID = '0123456789abcdef0123456789abcdef'
const SECRET = 'a secret of sixteen characters or more'
const REGION: ResolvedRegion = { address: '4096', bytes: 7, remoteKeys: [1] }
const STRANGERS = 2000
/** For one honest conversation on an otherwise idle machine. */
const ANSWER_MS = 1000
const nic = {
  device: 'none_0',
  port: 1,
  linkLayer: 'Ethernet',
  gidIndex: 0,
  pciBusId: undefined,
  numaNode: -1,
  gigabitsPerSecond: 1,
} as const

function framed(text: string, length = text.length): Buffer {
  const header = Buffer.alloc(36)
  header.writeUInt32BE(length)
  return Buffer.concat([header, Buffer.from(text)])
}
const greeting = framed(JSON.stringify({ magic: 'ckpt-rdma', protocol: RDMA_PROTOCOL, id: ID, nonce: ID }))
const base64 = (first: Buffer, again = Buffer.alloc(0)): Kind => ({
  first: first.toString('base64'),
  again: again.toString('base64'),
})
const KINDS: [string, Kind][] = [
  ['silent', base64(Buffer.alloc(0))],
  ['a greeting and no more', base64(greeting)],
  ['a byte now and then', base64(framed('', 1000), Buffer.of(0x20))],
  ['a message of 4 MiB', base64(framed('', 4 * 2 ** 20), Buffer.alloc(16_384))],
  ['4 MiB after a greeting', base64(Buffer.concat([greeting, framed('', 4 * 2 ** 20)]), Buffer.alloc(16_384))],
  ['noise', base64(Buffer.alloc(3000, 0xa5))],
]

describe('an endpoint that strangers crowd', () => {
  it.each(KINDS)(`of ${STRANGERS} connections each: %s`, { timeout: 180_000 }, async (name, kind) => {
    const settings = settingsOf({ listen: '127.0.0.1:0', secret: SECRET, nics: [nic] }, {})
    const server = new BootstrapServer({ id: ID, settings, devices: [], regionOf: () => REGION })
    onTestFinished(() => server.close())
    const port = await server.listen('127.0.0.1:0')
    const descriptor: EndpointDescriptor = {
      kind: 'rdma',
      protocol: RDMA_PROTOCOL,
      id: ID,
      addresses: [`127.0.0.1:${port}`],
      nics: [],
    }
    const converse = async (): Promise<number> => {
      const started = performance.now()
      const client = await BootstrapClient.connect(descriptor, { secret: SECRET, timeoutMs: 30_000 })
      expect(await client.resolve(['key'], 30_000)).toEqual([REGION])
      client.close()
      return performance.now() - started
    }
    const early = await BootstrapClient.connect(descriptor, { secret: SECRET, timeoutMs: 5000 })
    onTestFinished(() => early.close())
    await converse()
    const stranger = fork(fileURLToPath(new URL('../testing/stranger.fixture.ts', import.meta.url)), {
      execArgv: ['--import', 'tsx', '--conditions=@ckpt/source'],
    })
    onTestFinished(() => void stranger.kill('SIGKILL'))
    await once(stranger, 'message')
    const before = process.memoryUsage.rss()
    const answer = once(stranger, 'message') as Promise<[Report]>
    let over = false
    void answer.then(() => (over = true))
    stranger.send({ port, kind, count: STRANGERS } satisfies Assault)
    const times: number[] = []
    let most = 0
    // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- set by a callback
    while (!over) {
      times.push(await converse())
      most = Math.max(most, server.connections)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const [report] = await answer
    const grown = Math.round((process.memoryUsage.rss() - before) / 2 ** 20)
    const longest = Math.round(Math.max(...times))
    console.log(`${name}: ${JSON.stringify(report)}, ${times.length} answers, longest ${longest} ms, ${grown} MiB more`)
    expect(report.opened).toBe(STRANGERS)
    // Other programs may use this machine's processors meanwhile.
    expect(longest).toBeLessThan(ANSWER_MS * Math.max(1, (2 * loadavg()[0]!) / availableParallelism()))
    expect(most).toBeLessThanOrEqual(MOST_STRANGERS + 3)
    expect(grown).toBeLessThan(128)
    // Peers that proved the secret before the strangers came keep their connection.
    expect(early.lost).toBeUndefined()
    expect(await early.resolve(['key'], 30_000)).toEqual([REGION])
  })
})
