/** RDMA endpoints: two processes, over two wires. */
import {
  type EndpointDescriptor,
  type HostMemory,
  type OneSidedPeer,
  type RegionDescriptor,
  ContiguousCopies,
} from '@ckpt/contract'
import { chooseNics, createHost, createRdmaEndpoint, probeRdma, type RdmaNic } from '@ckpt/transport'
import { Owner } from './owner-process.ts'
import { expect, expectEqual, failureOf, finish, test } from './report.ts'

const MIB = 2 ** 20
const SECRET = 'a secret of the run 0123456789'
const CALL = { timeoutMs: 30_000 }
const CONNECT = { secret: SECRET, timeoutMs: 30_000 }

const host = createHost()
const { devices } = await probeRdma()
const nicsOf = (names: string): RdmaNic[] => [...chooseNics(devices, { PS_P2P_STORE_RDMA_DEVICES: names }).nics]
const endpoint = await createRdmaEndpoint({
  listen: '127.0.0.1:0',
  secret: SECRET,
  nics: nicsOf('xa_rxe,ya_rxe'),
  connection: { timeout: 16, retries: 3 },
})

async function start(): Promise<{ owner: Owner; descriptor: EndpointDescriptor }> {
  const owner = new Owner()
  const descriptor = await owner.call('start', { listen: '127.0.0.1:0', nics: nicsOf('xb_rxe,yb_rxe'), secret: SECRET })
  return { owner, descriptor }
}

async function digest(memory: HostMemory, bytes = memory.bytes): Promise<bigint> {
  return (await host.digest([memory], [{ memory: 0, offset: 0, bytes }]))[0]!
}

/** Copies by their numbers, five each. */
function copies(...numbers: number[]): ContiguousCopies {
  return new ContiguousCopies(Float64Array.from(numbers))
}

/** Copies a whole region, `times` times, into a memory. */
function whole(region: RegionDescriptor, memory: HostMemory, times = 1) {
  const row = [0, 0, 0, 0, region.bytes]
  return {
    ...CALL,
    regions: [region],
    memories: [memory],
    transfers: new ContiguousCopies(Float64Array.from(Array.from({ length: times }, () => row).flat())),
  }
}

const { owner, descriptor } = await start()
const memory = await host.allocate({ bytes: 16 * MIB, lock: false })
let peer!: OneSidedPeer

await test('an endpoint describes itself', () => {
  expectEqual([descriptor.kind, descriptor.nics.length, descriptor.addresses.length], ['rdma', 2, 1], 'descriptor')
  expect(!JSON.stringify(descriptor).includes(SECRET), 'the descriptor holds the secret')
  return Promise.resolve()
})

await test('regions are read into local memories', async () => {
  peer = await endpoint.connect(descriptor, CONNECT)
  expectEqual(await owner.call('connections', null), 1, 'connections')
  const first = await owner.call('register', { bytes: 8 * MIB + 13, seed: 5n, writable: false })
  const second = await owner.call('register', { bytes: 3 * MIB, seed: 6n, writable: false })
  const other = await host.allocate({ bytes: 8 * MIB + 13, lock: false })
  const transfers = copies(0, 0, 1, 0, 5 * MIB, 1, 0, 0, 0, 3 * MIB, 0, 5 * MIB, 1, 5 * MIB, 3 * MIB + 13)
  const stats = await peer.read({ ...CALL, regions: [first.region, second.region], memories: [memory, other], transfers })
  expectEqual(stats.bytes, 11 * MIB + 13, 'bytes')
  expectEqual([await digest(other), await digest(memory, 3 * MIB)], [first.digest, second.digest], 'digests')
  other.close()
})

await test('a writable region is written', async () => {
  const { region } = await owner.call('register', { bytes: 16 * MIB, seed: 8n, writable: true })
  await host.fill(memory, { seed: 9n })
  await peer.write!(whole(region, memory))
  expectEqual(await owner.call('digest', { index: 2 }), await digest(memory), 'digest')
})

await test('reads go on while the owner’s JavaScript is busy', async () => {
  const { region, digest: expected } = await owner.call('register', { bytes: 16 * MIB, seed: 10n, writable: false })
  // Learns the region's location.
  await peer.read({ ...whole(region, memory), transfers: copies(0, 0, 0, 0, 1) })
  await owner.call('block', { milliseconds: 6000 })
  const start = performance.now()
  await new Promise((resolve) => setTimeout(resolve, 200))
  await peer.read(whole(region, memory))
  const milliseconds = performance.now() - start
  expectEqual(await digest(memory), expected, 'digest')
  expect(milliseconds < 5500, `the read took ${milliseconds} ms`)
  await owner.call('connections', null)
  return `${milliseconds.toFixed(0)} ms of 6000`
})

await test('a range outside a region, and an unknown key, are REGION_REFUSED', async () => {
  const { region } = await owner.call('register', { bytes: MIB, seed: 11n, writable: false })
  const outside = { ...whole(region, memory), transfers: copies(0, MIB - 1, 0, 0, 2) }
  const unknown = whole({ ...region, key: '0'.repeat(32) }, memory)
  for (const request of [outside, unknown]) {
    const { error } = await failureOf(peer.read(request))
    expectEqual([error.code, error.region], ['REGION_REFUSED', 0], 'error')
  }
  const { error } = await failureOf(peer.write!(whole(region, memory)))
  expectEqual([error.code, error.status], ['REGION_REFUSED', 'IBV_WC_REM_ACCESS_ERR'], 'writing what is not writable')
  await peer.read(whole(region, memory))
})

await test('a region that closes under a batch is REGION_REFUSED; a batch beside it and later ones are well', async () => {
  const closing = await owner.call('register', { bytes: 16 * MIB, seed: 12n, writable: false })
  const staying = await owner.call('register', { bytes: 8 * MIB, seed: 13n, writable: false })
  const other = await host.allocate({ bytes: 8 * MIB, lock: false })
  const refused = failureOf(peer.read(whole(closing.region, memory, 40)))
  const beside = peer.read(whole(staying.region, other, 20))
  await new Promise((resolve) => setTimeout(resolve, 400))
  await owner.call('closeRegion', { index: 5 })
  expectEqual((await refused).error.code, 'REGION_REFUSED', 'code')
  expectEqual((await beside).bytes, 20 * 8 * MIB, 'bytes beside it')
  expectEqual(await digest(other), staying.digest, 'digest beside it')
  const again = (await failureOf(peer.read(whole(closing.region, memory)))).error
  expectEqual([again.code, again.field], ['REGION_REFUSED', 'closed'], 'again')
  expectEqual((await peer.read(whole(staying.region, other))).bytes, 8 * MIB, 'bytes later')
  other.close()
})

await test('a wrong secret, another endpoint, and nobody at all', async () => {
  const unauthorized = await failureOf(endpoint.connect(descriptor, { ...CONNECT, secret: 'not the secret of the run' }))
  expectEqual(unauthorized.error.code, 'PEER_UNAUTHORIZED', 'wrong secret')
  const anew = await failureOf(endpoint.connect({ ...descriptor, id: 'f'.repeat(32) }, CONNECT))
  expectEqual([anew.error.code, anew.error.field], ['PEER_PROTOCOL', 'id'], 'another endpoint')
  const nobody = await failureOf(endpoint.connect({ ...descriptor, addresses: ['127.0.0.1:1'] }, CONNECT))
  expectEqual(nobody.error.code, 'PEER_LOST', 'nobody')
})

await test('aborting, then reading on', async () => {
  const { region, digest: expected } = await owner.call('register', { bytes: 16 * MIB, seed: 14n, writable: false })
  const controller = new AbortController()
  setTimeout(() => controller.abort(), 300)
  const { error } = await failureOf(peer.read({ ...whole(region, memory, 40), signal: controller.signal }))
  expectEqual(error.code, 'ABORTED', 'code')
  await peer.read(whole(region, memory))
  expectEqual(await digest(memory), expected, 'digest')
})

await test('a killed owner is PEER_LOST for every batch, and stays lost', async () => {
  const { region } = await owner.call('register', { bytes: 16 * MIB, seed: 15n, writable: false })
  const batches = [failureOf(peer.read(whole(region, memory, 40))), failureOf(peer.read(whole(region, memory, 40)))]
  await new Promise((resolve) => setTimeout(resolve, 400))
  const killed = performance.now()
  await owner.stop()
  for (const batch of batches) expectEqual((await batch).error.code, 'PEER_LOST', 'code')
  const milliseconds = performance.now() - killed
  expect(!peer.alive, 'the peer still counts as alive')
  expectEqual((await failureOf(peer.read(whole(region, memory)))).error.code, 'PEER_LOST', 'later')
  expect(milliseconds < 10_000, `it took ${milliseconds} ms`)
  return `after ${milliseconds.toFixed(0)} ms`
})

await endpoint.close()
finish()
