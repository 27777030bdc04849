import { ContiguousCopies } from '@ckpt/contract'
import { describe, expect, it } from 'vitest'
import { allocate, closeAfterEach, closing, connect, failure, oneSidedTests, secret } from '../testing/one-sided.fixture.ts'
import { createTcpEndpoint, type TcpEndpoint, type TcpEndpointOptions } from './endpoint.ts'

closeAfterEach()

function endpoint(options: Partial<TcpEndpointOptions> = {}): TcpEndpoint {
  return closing(createTcpEndpoint({ listen: ['127.0.0.1:0'], secret, ...options }))
}

oneSidedTests('TCP endpoints', {
  create: () => endpoint({ streams: 3 }),
  peerField: ({ descriptor }) => descriptor.addresses[0],
})

describe('TCP endpoints', () => {
  it('count what they serve, and refuse what is no key, and options that make no sense', async () => {
    const [serving, reading] = [endpoint(), endpoint({ streams: 3 })]
    const source = await allocate(1000, 3n)
    const { descriptor } = await serving.register(source)
    const target = await allocate(1000)
    const peer = await reading.connect(serving.descriptor, connect)
    const read = (key: string) =>
      peer.read({
        regions: [{ ...descriptor, key }],
        memories: [target],
        transfers: new ContiguousCopies(Float64Array.of(0, 0, 0, 0, 1000)),
        timeoutMs: 5000,
      })
    await read(descriptor.key)
    expect(serving.servedBytes).toBeGreaterThan(0)
    expect(serving.connections).toBe(3)
    expect((await failure(read('nonsense'), 'INVALID_ARGUMENT')).fields.field).toBe('regions')
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
})
