import { once } from 'node:events'
import { connect, createServer, Socket } from 'node:net'
import type { EndpointDescriptor } from '@ckpt/contract'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { splitAddress } from '../bootstrap/address.ts'
import { Channel, type Side } from '../bootstrap/channel.ts'
import { BootstrapClient } from './client.ts'
import { pairNics } from './lanes.ts'
import { RDMA_PROTOCOL, type ResolvedRegion } from './messages.ts'
import { settingsOf } from './options.ts'
import { BootstrapServer } from './server.ts'

const ID = '0123456789abcdef0123456789abcdef'
const SECRET = 'a secret of sixteen characters or more'
const REGION: ResolvedRegion = { address: '18446744073709551615', bytes: 7, remoteKeys: [1, 2] }
const nic = {
  device: 'none_0',
  port: 1,
  linkLayer: 'Ethernet',
  gidIndex: 0,
  pciBusId: undefined,
  numaNode: -1,
  gigabitsPerSecond: 1,
} as const
const settings = settingsOf({ listen: '127.0.0.1:0', secret: SECRET, nics: [nic] }, {})
const closing: (() => unknown)[] = []

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

async function serve(): Promise<{ server: BootstrapServer; descriptor: EndpointDescriptor; port: number }> {
  const regionOf = (key: string): ResolvedRegion | 'closed' | undefined =>
    key === 'known' ? REGION : key === 'once' ? 'closed' : undefined
  const server = new BootstrapServer({ id: ID, settings, devices: [], regionOf })
  closing.push(() => server.close())
  const port = await server.listen('127.0.0.1:0')
  return {
    server,
    port,
    descriptor: { kind: 'rdma', protocol: RDMA_PROTOCOL, id: ID, addresses: [`127.0.0.1:${port}`], nics: [] },
  }
}

async function reach(descriptor: EndpointDescriptor, secret = SECRET): Promise<BootstrapClient> {
  const client = await BootstrapClient.connect(descriptor, { secret, timeoutMs: 5000 })
  closing.push(() => client.close())
  return client
}

/** A server that applies `behave` to the first connection. */
async function impostor(behave: (socket: Socket) => void): Promise<EndpointDescriptor> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    behave(socket)
  }).listen(0, '127.0.0.1')
  closing.push(() => server.close())
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  return { kind: 'rdma', protocol: RDMA_PROTOCOL, id: ID, addresses: [`127.0.0.1:${port}`], nics: [] }
}

const code = (name: string): unknown => expect.objectContaining({ code: name, fields: expect.objectContaining({ peer: ID }) })

describe('finding a peer', () => {
  it('resolves regions for who knows the secret', async () => {
    const { server, descriptor } = await serve()
    const client = await reach(descriptor)
    expect(await client.resolve(['known', 'unknown', 'once'], 5000)).toEqual([REGION, undefined, 'closed'])
    expect(server.connections).toBe(1)
    client.close()
    await expect.poll(() => server.connections).toBe(0)
  })

  it('tries addresses in turn', async () => {
    const { descriptor } = await serve()
    await reach({ ...descriptor, addresses: ['127.0.0.1:1', ...descriptor.addresses] })
    await expect(reach({ ...descriptor, addresses: ['127.0.0.1:1'] })).rejects.toEqual(code('PEER_LOST'))
    await expect(reach({ ...descriptor, addresses: [] })).rejects.toEqual(code('PEER_LOST'))
  })

  it('is PEER_UNAUTHORIZED with another secret', async () => {
    const { server, descriptor } = await serve()
    await expect(reach(descriptor, `${SECRET}!`)).rejects.toEqual(code('PEER_UNAUTHORIZED'))
    await expect.poll(() => server.connections).toBe(0)
  })

  it('is PEER_PROTOCOL for an endpoint that was started anew', async () => {
    const { descriptor } = await serve()
    await expect(reach({ ...descriptor, id: ID.replaceAll('0', 'f') })).rejects.toMatchObject({
      code: 'PEER_PROTOCOL',
      fields: { field: 'id' },
    })
  })

  it.each([
    ['another service', (socket: Socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'.repeat(4)), 'PEER_PROTOCOL'],
    [
      'no JSON',
      (socket: Socket) => socket.write(Buffer.concat([Buffer.from([0, 0, 0, 1]), Buffer.alloc(32), Buffer.from('{')])),
      'PEER_PROTOCOL',
    ],
    ['somebody who hangs up', (socket: Socket) => socket.destroy(), 'PEER_LOST'],
  ])('meets %s', async (_, behave, expected) => {
    await expect(reach(await impostor(behave))).rejects.toEqual(code(expected))
  })

  it('meets one who says nothing, and gives up in time', async () => {
    const descriptor = await impostor(() => undefined)
    await expect(BootstrapClient.connect(descriptor, { secret: SECRET, timeoutMs: 200 })).rejects.toEqual(code('PEER_LOST'))
  })

  it('is not taken in by one who repeats the greeting without the secret', async () => {
    const descriptor = await impostor((socket) => {
      const channel = new Channel(socket, 'server')
      socket.once('data', () => {
        channel.send({ magic: 'ckpt-rdma', protocol: RDMA_PROTOCOL, id: ID, nonce: ID })
        channel.secure('another secret', ID, ID, ID)
        channel.send({ type: 'resolved', seq: 0, regions: [] })
      })
    })
    await expect(reach(descriptor)).rejects.toEqual(code('PEER_UNAUTHORIZED'))
  })

  it('hears of closed keys, and of a peer that goes away', async () => {
    const { server, descriptor } = await serve()
    const client = await reach(descriptor)
    const keys = new Promise((resolve) => (client.onClosedKeys = resolve))
    const lost = new Promise((resolve) => (client.onLost = resolve))
    server.announceClosed('known')
    expect(await keys).toEqual(['known'])
    await server.close()
    expect(await lost).toEqual(code('PEER_LOST'))
    await expect(client.resolve(['known'], 5000)).rejects.toEqual(code('PEER_LOST'))
  })
})

describe('serving strangers', () => {
  it.each([
    ['no message', Buffer.from('GET / HTTP/1.1\r\n\r\n'.repeat(10))],
    ['a length beyond all bounds', Buffer.alloc(64, 0xff)],
    ['a greeting of something else', message({ magic: 'other', protocol: 1, id: ID, nonce: ID })],
    ['a question without a greeting', message({ type: 'resolve', seq: 0, keys: ['known'] })],
  ])('hangs up on %s', async (_, bytes) => {
    const { port } = await serve()
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.write(bytes)
    await once(socket, 'close')
  })

  it('tells nothing to who repeats a signed message', async () => {
    const { port, descriptor } = await serve()
    const seen: Buffer[] = []
    // A connection that records what the client sends, and sends the last message twice.
    const between = createServer((near) => {
      const far = connect(port, '127.0.0.1')
      far.on('error', () => undefined)
      near.on('error', () => undefined)
      near.on('data', (chunk: Buffer) => {
        seen.push(chunk)
        far.write(seen.length === 3 ? Buffer.concat([chunk, chunk]) : chunk)
      })
      far.pipe(near)
      far.on('close', () => near.destroy())
    }).listen(0, '127.0.0.1')
    closing.push(() => between.close())
    await once(between, 'listening')
    const address = `127.0.0.1:${(between.address() as { port: number }).port}`
    const client = await reach({ ...descriptor, addresses: [address] })
    const lost = new Promise((resolve) => (client.onLost = resolve))
    await client.resolve(['known'], 5000).catch(() => undefined)
    expect(await lost).toEqual(code('PEER_LOST'))
  })
})

describe('a wire that somebody listens to', () => {
  /** Forwards the bytes of either side after `change`; `before`: how many that side had sent. */
  async function wire(port: number, change: (bytes: Buffer, before: number, side: Side) => Buffer): Promise<string> {
    const between = createServer((near) => {
      const far = connect(port, '127.0.0.1')
      for (const [from, to, side] of [
        [near, far, 'client'],
        [far, near, 'server'],
      ] as const) {
        let before = 0
        from.on('error', () => undefined).on('close', () => to.destroy())
        from.on('data', (chunk: Buffer) => {
          to.write(change(chunk, before, side))
          before += chunk.length
        })
      }
    }).listen(0, '127.0.0.1')
    closing.push(() => between.close())
    await once(between, 'listening')
    return `127.0.0.1:${(between.address() as { port: number }).port}`
  }

  it('shows neither keys nor places of regions', async () => {
    const { port, descriptor } = await serve()
    const seen: Buffer[] = []
    const address = await wire(port, (bytes) => (seen.push(Buffer.from(bytes)), bytes))
    const client = await reach({ ...descriptor, addresses: [address] })
    expect(await client.resolve(['known'], 5000)).toEqual([REGION])
    const all = Buffer.concat(seen)
    expect(all.includes(ID)).toBe(true)
    for (const text of ['known', REGION.address, 'remoteKeys', SECRET]) expect(all.includes(text)).toBe(false)
  })

  it('changes nothing unnoticed, whatever bit it turns', async () => {
    const { port, descriptor } = await serve()
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom<Side>('client', 'server'),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.nat(7),
        async (side, where, bit) => {
          // The greeting, the request that proves the secret, the request for a region; and their answers.
          const length = { client: 3 * 36 + 107 + 36 + 41, server: 3 * 36 + 107 + 38 + 115 }[side]
          const at = Math.floor(where * length)
          let done = false
          const address = await wire(port, (bytes, before, from) => {
            if (from !== side || at < before || at >= before + bytes.length) return bytes
            done = true
            bytes[at - before]! ^= 1 << bit
            return bytes
          })
          const outcome = await BootstrapClient.connect(
            { ...descriptor, addresses: [address] },
            { secret: SECRET, timeoutMs: 400 },
          )
            .then(async (client) => {
              closing.push(() => client.close())
              return await client.resolve(['known'], 400)
            })
            .catch((error: unknown) => error)
          // The second half of a code is not used.
          if (Array.isArray(outcome)) expect(outcome).toEqual([REGION])
          else expect(outcome).toMatchObject({ code: /^PEER_(LOST|UNAUTHORIZED|PROTOCOL)$/ })
          // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- set by a callback
          expect(done || Array.isArray(outcome)).toBe(true)
        },
      ),
      { numRuns: 60 },
    )
  })
})

describe('messages in pieces', () => {
  it('are whole again, however they were cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.jsonValue(), { minLength: 1, maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 60 })),
        (values, cuts) => {
          const all = Buffer.concat(values.map(message))
          const channel = new Channel(
            { setNoDelay: () => undefined, setKeepAlive: () => undefined } as unknown as Socket,
            'server',
          )
          const got: unknown[] = []
          for (let at = 0, i = 0; at < all.length; i++) {
            const end = at + (cuts[i % Math.max(1, cuts.length)] ?? 1)
            got.push(...channel.receive(all.subarray(at, end)))
            at = end
          }
          expect(JSON.stringify(got)).toBe(JSON.stringify(values))
        },
      ),
    )
  })

  it('of a peer that has proven nothing are at most 4 KiB', () => {
    const channel = new Channel(new Socket(), 'server')
    const header = (length: number) => message('x'.repeat(length - 2)).subarray(0, 36)
    expect(() => [...channel.receive(header(4097))]).toThrow(expect.objectContaining({ code: 'PEER_PROTOCOL' }) as Error)
  })
})

describe('options', () => {
  it.each([
    [{ secret: 'short' }, {}, 'secret'],
    [{ nics: [] }, {}, 'nics'],
    [{ queuePairs: 0 }, {}, 'queuePairs'],
    [{ pieceBytes: 2 ** 31 }, {}, 'pieceBytes'],
    [{}, { NCCL_IB_TIMEOUT: '40' }, 'NCCL_IB_TIMEOUT'],
  ])('%j with %j names the field', (changes, env, field) => {
    const options = { listen: '127.0.0.1:0', secret: SECRET, nics: [nic], ...changes }
    expect(() => settingsOf(options, env)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: { field } }) as Error,
    )
  })

  it('never retry for ever', () => {
    const env = { NCCL_IB_RETRY_CNT: '7', NCCL_IB_TIMEOUT: '20', NCCL_IB_TC: '106', NCCL_IB_QPS_PER_CONNECTION: '4' }
    const { connection, queuePairs } = settingsOf({ listen: '127.0.0.1:0', secret: SECRET, nics: [nic] }, env)
    expect([connection, queuePairs]).toEqual([{ timeout: 20, retries: 6, trafficClass: 106, serviceLevel: 0 }, 4])
  })

  it('split addresses', () => {
    expect(splitAddress('[fe80::1]:80', 'x')).toEqual({ host: 'fe80::1', port: 80 })
    expect(splitAddress('node-1:0', 'x')).toEqual({ host: 'node-1', port: 0 })
    expect(() => splitAddress('node-1', 'x')).toThrow(/host:port/)
  })
})

describe('pairNics', () => {
  it('gives every NIC of both sides work, first with first', () => {
    const ethernet = (count: number) => Array<string>(count).fill('Ethernet')
    expect(pairNics(ethernet(2), ethernet(2))).toEqual([
      { own: 0, peers: 0 },
      { own: 1, peers: 1 },
    ])
    expect(pairNics(ethernet(1), ethernet(3))).toEqual([0, 1, 2].map((peers) => ({ own: 0, peers })))
    expect(pairNics(['InfiniBand', 'Ethernet'], ['Ethernet'])).toEqual([{ own: 1, peers: 0 }])
    expect(() => pairNics(['InfiniBand'], ['Ethernet'])).toThrow(/link layer/)
  })
})

function message(value: unknown): Buffer {
  const text = Buffer.from(JSON.stringify(value))
  const header = Buffer.alloc(36)
  header.writeUInt32BE(text.length)
  return Buffer.concat([header, text])
}
