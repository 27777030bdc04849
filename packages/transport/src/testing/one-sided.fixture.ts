import {
  CkptError,
  type ErrorCode,
  type HostMemory,
  type OneSided,
  ContiguousCopies,
  type ContiguousCopy,
} from '@ckpt/contract'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { createHost } from '../host/host.ts'
import { connect, secret } from './secret.fixture.ts'

export { connect, secret }

const host = createHost()
const memories: HostMemory[] = []
const endpoints: OneSided[] = []

/** Closes everything at the end of each test of this file. */
export function closeAfterEach(): void {
  afterEach(async () => {
    await Promise.all(endpoints.splice(0).map((endpoint) => endpoint.close()))
    for (const memory of memories.splice(0)) memory.close()
  })
}

/** Lets an endpoint be closed at the end of the test. */
export function closing<One extends OneSided>(endpoint: One): One {
  endpoints.push(endpoint)
  return endpoint
}

export async function allocate(bytes: number, seed?: bigint): Promise<HostMemory> {
  const memory = await host.allocate({ bytes, lock: false })
  memories.push(memory)
  if (seed !== undefined) await host.fill(memory, { seed })
  return memory
}

export async function failure(promise: Promise<unknown>, code: ErrorCode): Promise<CkptError> {
  const error = await promise.then(
    () => expect.unreachable('it should have failed'),
    (reason: unknown) => reason,
  )
  if (!CkptError.is(error, code)) throw error
  return error
}

/** A kind of endpoint to test. */
export interface Wire {
  /** Reason why it cannot be tested here. */
  readonly missing?: string | undefined
  create(): OneSided | Promise<OneSided>
  /** How errors name this endpoint. */
  peerField(endpoint: OneSided): string | undefined
}

/** What every kind of endpoint promises. */
export function oneSidedTests(name: string, { missing, create, peerField }: Wire): void {
  const pair = async (): Promise<[OneSided, OneSided]> => [closing(await create()), closing(await create())]

  describe(name, () => {
    const test = it.skipIf(missing !== undefined)

    test('read any runs of any registered regions, to where they belong and nowhere else', async () => {
      const [serving, reading] = await pair()
      const sources = await Promise.all([allocate(300_000, 1n), allocate(5000, 2n)])
      const regions = await Promise.all(sources.map((memory, index) => serving.register(memory, { offset: index * 100 })))
      const peer = await reading.connect(serving.descriptor, connect)
      await fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.tuple(fc.nat(1), fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true })),
            {
              maxLength: 90,
            },
          ),
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
    })

    test('refuse a closed region, a guessed key and a range outside, and say which', async () => {
      const [serving, reading] = await pair()
      const source = await allocate(1000, 3n)
      const region = await serving.register(source)
      const peer = await reading.connect(serving.descriptor, connect)
      const target = await allocate(5000)
      const read = (keys: { key: string; bytes: number }[], row: number[]) =>
        peer.read({
          regions: keys,
          memories: [target],
          transfers: new ContiguousCopies(Float64Array.from(row)),
          timeoutMs: 5000,
        })
      const { descriptor } = region
      const outside = await failure(read([descriptor], [0, 900, 0, 0, 101]), 'REGION_REFUSED')
      expect(outside.fields).toMatchObject({ region: 0, peer: peerField(serving) })
      const guess = { ...descriptor, key: '0123456789abcdef'.repeat(2) }
      expect((await failure(read([descriptor, guess], [1, 0, 0, 0, 1]), 'REGION_REFUSED')).fields['region']).toBe(1)
      expect((await failure(read([descriptor], [0, 0, 0, 4500, 600]), 'INVALID_ARGUMENT')).fields.field).toBe('transfers')
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

    test('let nobody in who cannot prove the secret, and notice an endpoint that was started anew', async () => {
      const [serving, reading] = await pair()
      const wrong = await failure(
        reading.connect(serving.descriptor, { ...connect, secret: `${secret}?` }),
        'PEER_UNAUTHORIZED',
      )
      expect(wrong.message).not.toContain(secret)
      const other = { ...serving.descriptor, id: reading.descriptor.id }
      expect((await failure(reading.connect(other, connect), 'PEER_PROTOCOL')).fields.field).toBe('id')
      await serving.close()
      await failure(reading.connect(serving.descriptor, connect), 'PEER_LOST')
    })

    test('end reads in time: when aborted, when the peer closes, when the endpoint does', async () => {
      const [serving, reading] = await pair()
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
      expect((await lost).fields.peer).toBe(peerField(serving))
      expect(peer.alive).toBe(false)
      await peer.close()
    })
  })
}
