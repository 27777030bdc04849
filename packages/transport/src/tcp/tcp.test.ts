import { CkptError, type ErrorCode, type HostMemory, ContiguousCopies, type ContiguousCopy } from '@ckpt/contract'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { createHost } from '../host/host.ts'
import { createTcpEndpoint, type TcpEndpoint, type TcpEndpointOptions } from './endpoint.ts'

const host = createHost()
const secret = 'a secret for tests, long enough'
const memories: HostMemory[] = []
const endpoints: TcpEndpoint[] = []

afterEach(async () => {
  await Promise.all(endpoints.splice(0).map((endpoint) => endpoint.close()))
  for (const memory of memories.splice(0)) memory.close()
})

async function allocate(bytes: number, seed?: bigint): Promise<HostMemory> {
  const memory = await host.allocate({ bytes, lock: false })
  memories.push(memory)
  if (seed !== undefined) await host.fill(memory, { seed })
  return memory
}

function endpoint(options: Partial<TcpEndpointOptions> = {}): TcpEndpoint {
  const made = createTcpEndpoint({ listen: ['127.0.0.1:0'], secret, ...options })
  endpoints.push(made)
  return made
}

async function failure(promise: Promise<unknown>, code: ErrorCode): Promise<CkptError> {
  const error = await promise.then(
    () => expect.unreachable('it should have failed'),
    (reason: unknown) => reason,
  )
  if (!CkptError.is(error, code)) throw error
  return error
}

const connect = { secret, timeoutMs: 5000 }

describe('TCP endpoints', () => {
  it('read any runs of any registered regions, to where they belong and nowhere else', async () => {
    const [serving, reading] = [endpoint(), endpoint({ streams: 3 })]
    const sources = await Promise.all([allocate(300_000, 1n), allocate(5000, 2n)])
    const regions = await Promise.all(sources.map((memory, index) => serving.register(memory, { offset: index * 100 })))
    const peer = await reading.connect(serving.descriptor, connect)
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(1), fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true })), {
          maxLength: 90,
        }),
        async (runs) => {
          const copies: ContiguousCopy[] = []
          let at = 7
          const expected: Buffer[] = []
          runs.forEach(([region, from, size], index) => {
            const all = regions[region]!.descriptor.bytes
            const offset = Math.floor(from * all)
            const bytes = Math.floor(size * (all - offset) * (index % 8 === 0 ? 1 : 0.02))
            copies.push({ source: region, sourceOffset: offset, destination: 0, destinationOffset: at, bytes })
            expected.push(sources[region]!.view(region * 100 + offset, bytes))
            at += bytes + 3
          })
          const target = await allocate(at + 10)
          target.view(0, target.bytes).fill(0xee)
          const descriptors = regions.map(({ descriptor }) => descriptor)
          const stats = await peer.read({
            regions: descriptors,
            memories: [target],
            transfers: ContiguousCopies.from(copies),
            timeoutMs: 5000,
          })
          expect(stats.bytes).toBe(expected.reduce((sum, part) => sum + part.length, 0))
          const whole = Buffer.alloc(target.bytes, 0xee)
          let to = 7
          for (const part of expected) {
            part.copy(whole, to)
            to += part.length + 3
          }
          expect(whole.equals(target.view(0, target.bytes))).toBe(true)
        },
      ),
      { numRuns: 30 },
    )
    expect(serving.servedBytes).toBeGreaterThan(0)
    expect(serving.connections).toBe(3)
  })

  it('refuse a closed region, a guessed key and a range outside, and say which', async () => {
    const [serving, reading] = [endpoint(), endpoint()]
    const source = await allocate(1000, 3n)
    const region = await serving.register(source)
    const peer = await reading.connect(serving.descriptor, connect)
    const target = await allocate(5000)
    const read = (keys: { key: string; bytes: number }[], row: number[]) =>
      peer.read({ regions: keys, memories: [target], transfers: new ContiguousCopies(Float64Array.from(row)), timeoutMs: 5000 })
    const { descriptor } = region
    const outside = await failure(read([descriptor], [0, 900, 0, 0, 101]), 'REGION_REFUSED')
    expect(outside.fields).toMatchObject({ region: 0, peer: serving.descriptor.addresses[0] })
    const guess = { ...descriptor, key: '0123456789abcdef'.repeat(2) }
    expect((await failure(read([descriptor, guess], [1, 0, 0, 0, 1]), 'REGION_REFUSED')).fields['region']).toBe(1)
    expect((await failure(read([descriptor], [0, 0, 0, 4500, 600]), 'INVALID_ARGUMENT')).fields.field).toBe('transfers')
    expect((await failure(read([{ ...descriptor, key: 'nonsense' }], [0, 0, 0, 0, 1]), 'INVALID_ARGUMENT')).fields.field).toBe(
      'regions',
    )
    await read([descriptor], [0, 0, 0, 0, 1000])
    await region.close()
    // A former key is distinguished from a guess.
    expect((await failure(read([descriptor], [0, 0, 0, 0, 1]), 'REGION_REFUSED')).fields.field).toBe('closed')
    expect((await failure(read([guess], [0, 0, 0, 0, 1]), 'REGION_REFUSED')).fields.field).toBeUndefined()
    // Registered again, the same memory has a different key.
    const again = await serving.register(source)
    expect(again.descriptor.key).not.toBe(descriptor.key)
    await failure(read([descriptor], [0, 0, 0, 0, 1]), 'REGION_REFUSED')
    await read([again.descriptor], [0, 0, 0, 0, 1000])
    expect(peer.alive).toBe(true)
  })

  it('let nobody in who cannot prove the secret, and notice an endpoint that was started anew', async () => {
    const [serving, reading] = [endpoint(), endpoint()]
    const wrong = await failure(reading.connect(serving.descriptor, { ...connect, secret: `${secret}?` }), 'PEER_UNAUTHORIZED')
    expect(wrong.message).not.toContain(secret)
    const other = { ...serving.descriptor, id: reading.descriptor.id }
    expect((await failure(reading.connect(other, connect), 'PEER_PROTOCOL')).fields.field).toBe('id')
    await serving.close()
    await failure(reading.connect(serving.descriptor, connect), 'PEER_LOST')
    expect(() => createTcpEndpoint({ listen: ['127.0.0.1:0'], secret: 'short' })).toThrow(/16 characters/)
    expect(() => createTcpEndpoint({ listen: ['nowhere'], secret })).toThrow(/host:port/)
    // An address of a network that this machine is not connected to.
    expect(() => createTcpEndpoint({ listen: ['192.0.2.1:0'], secret })).toThrow(/192\.0\.2\.1/)
  })

  it('protect a connection as the stricter side wants', async () => {
    const source = await allocate(700_000, 5n)
    const levels = ['none', 'authenticated', 'encrypted'] as const
    for (const [i, mine] of levels.entries()) {
      for (const [j, theirs] of levels.entries()) {
        const [serving, reading] = [endpoint({ protection: theirs }), endpoint({ protection: mine, streams: 1 })]
        const { descriptor } = await serving.register(source)
        const peer = await reading.connect(serving.descriptor, connect)
        expect(peer).toMatchObject({ protection: levels[Math.max(i, j)] })
        const target = await allocate(source.bytes)
        const transfers = new ContiguousCopies(Float64Array.of(0, 0, 0, 0, source.bytes))
        await peer.read({ regions: [descriptor], memories: [target], transfers, timeoutMs: 5000 })
        expect(target.view(0, target.bytes).equals(source.view(0, source.bytes))).toBe(true)
        await peer.close()
      }
    }
    // None of this is authenticated.
    const [serving, reading] = [endpoint(), endpoint()]
    expect(await reading.connect(serving.descriptor, connect)).toMatchObject({ protection: 'authenticated' })
    expect(() => endpoint({ protection: 'some' as 'none' })).toThrow(/protection 'some'/)
  })

  it('end reads in time: when aborted, when the peer closes, when the endpoint does', async () => {
    const [serving, reading] = [endpoint(), endpoint({ streams: 2 })]
    const source = await allocate(64 * 2 ** 20, 4n)
    const { descriptor } = await serving.register(source)
    const target = await allocate(source.bytes)
    const transfers = new ContiguousCopies(Float64Array.of(0, 0, 0, 0, source.bytes))
    const peer = await reading.connect(serving.descriptor, connect)
    const read = (signal?: AbortSignal) =>
      peer.read({ regions: [descriptor], memories: [target], transfers, timeoutMs: 5000, ...(signal && { signal }) })
    await failure(read(AbortSignal.abort()), 'ABORTED')
    const abort = new AbortController()
    const aborted = failure(read(abort.signal), 'ABORTED')
    abort.abort(new CkptError('ABORTED', 'enough'))
    expect((await aborted).message).toBe('enough')
    expect(peer.alive).toBe(true)
    const lost = failure(
      (async () => {
        for (;;) await read()
      })(),
      'PEER_LOST',
    )
    await serving.close()
    expect((await lost).fields.peer).toBe(serving.descriptor.addresses[0])
    expect(peer.alive).toBe(false)
    await peer.close()
  })
})
