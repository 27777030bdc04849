/** UCX endpoints on soft-RoCE: two processes, over a wire each; and the bandwidth beside that of verbs and of ib_read_bw. */
import { ContiguousCopies, type HostMemory, type OneSided, type RegionDescriptor } from '@ckpt/contract'
import { chooseNics, createHost, createRdmaEndpoint, createUcxEndpoint, probeRdma, probeUcx } from '@ckpt/transport'
import { ibReadBandwidth, list, median } from './bandwidth.ts'
import { Owner } from './owner-process.ts'
import { expect, expectEqual, failureOf, finish, test } from './report.ts'

const MIB = 2 ** 20
const SECRET = 'a secret of the run 0123456789'
const CONNECT = { secret: SECRET, timeoutMs: 60_000 }
const LISTEN = { listen: '127.0.0.1:0', secret: SECRET }
/** UCX agrees on queue pairs over TCP here: this kernel's soft-RoCE does not answer over UD, which UCX uses otherwise. */
const ENV = {
  UCX_TLS: 'rc_verbs,tcp',
  UCX_RC_VERBS_TIMEOUT: '270ms',
  UCX_RC_VERBS_RETRY_COUNT: '3',
}
const devices = (name: string) => ({ UCX_NET_DEVICES: `${name}:1,lo` })

const { problem } = await probeUcx()
if (problem !== undefined) {
  console.log(`SKIP UCX endpoints: ${problem}`)
  process.exit(0)
}
Object.assign(process.env, ENV, devices('rxe0'))

const host = createHost()
const memory = await host.allocate({ bytes: 16 * MIB, lock: false })
const endpoint = await createUcxEndpoint(LISTEN)

async function digest(of: HostMemory): Promise<bigint> {
  return (await host.digest([of], [{ memory: 0, offset: 0, bytes: of.bytes }]))[0]!
}

/** Copies a whole region, `times` times, into a memory. */
function whole(region: RegionDescriptor, into: HostMemory, times = 1) {
  const rows = Array.from({ length: times }, () => [0, 0, 0, 0, region.bytes])
  const transfers = new ContiguousCopies(Float64Array.from(rows.flat()))
  return { timeoutMs: 60_000, regions: [region], memories: [into], transfers }
}

async function start() {
  const owner = new Owner({ ...ENV, ...devices('rxe0') })
  const peer = await endpoint.connect(await owner.call('startUcx', LISTEN), CONNECT)
  return { owner, peer }
}

await test('UCX moves bytes over reliable connections of the device', async () => {
  const { owner, peer } = await start()
  expect(peer.transports.includes('rc_verbs/rxe0:1'), `transports ${peer.transports.join(', ')}`)
  await peer.close()
  await owner.stop()
  return peer.transports.join(', ')
})

await test('UCX READ and WRITE of 16 MiB, verified', async () => {
  const { owner, peer } = await start()
  const served = await owner.call('register', { bytes: 16 * MIB, seed: 5n, writable: false })
  expectEqual((await peer.read(whole(served.region, memory))).bytes, 16 * MIB, 'bytes')
  expectEqual(await digest(memory), served.digest, 'digest of what was read')
  const { region } = await owner.call('register', { bytes: 16 * MIB, seed: 8n, writable: true })
  await host.fill(memory, { seed: 9n })
  await peer.write(whole(region, memory))
  expectEqual(await owner.call('digest', { index: 1 }), await digest(memory), 'digest of what was written')
  await owner.call('closeRegion', { index: 0 })
  const { error } = await failureOf(peer.read(whole(served.region, memory)))
  expectEqual([error.code, error.field], ['REGION_REFUSED', 'closed'], 'a closed region')
  await peer.close()
  await owner.stop()
})

await test('UCX notices a killed owner', async () => {
  const { owner, peer } = await start()
  const { region } = await owner.call('register', { bytes: 16 * MIB, seed: 15n, writable: false })
  const batches = [failureOf(peer.read(whole(region, memory, 40))), failureOf(peer.read(whole(region, memory, 40)))]
  await new Promise((resolve) => setTimeout(resolve, 400))
  const killed = performance.now()
  await owner.stop()
  for (const batch of batches) expectEqual((await batch).error.code, 'PEER_LOST', 'code')
  const milliseconds = performance.now() - killed
  expect(!peer.alive, 'the peer still counts as alive')
  expect(milliseconds < 20_000, `it took ${milliseconds} ms`)
  return `after ${milliseconds.toFixed(0)} ms`
})

await endpoint.close()

await test('READ at 1 MiB over UCX, beside verbs and ib_read_bw on the same device', async () => {
  const times = 96
  Object.assign(process.env, devices('rxe0'))
  const { nics } = chooseNics((await probeRdma()).devices, { PS_P2P_STORE_RDMA_DEVICES: 'rxe0' })
  const owners = [new Owner({ ...ENV, ...devices('rxe0') }), new Owner()]
  const readers: OneSided[] = [
    await createUcxEndpoint({ ...LISTEN, pieceBytes: MIB }),
    await createRdmaEndpoint({ ...LISTEN, nics, queuePairs: 1, connection: { timeout: 16, retries: 3 } }),
  ]
  const descriptors = [
    await owners[0]!.call('startUcx', LISTEN),
    await owners[1]!.call('start', { ...LISTEN, nics: [...nics] }),
  ]
  const turns: (() => Promise<number>)[] = []
  for (const [index, owner] of owners.entries()) {
    const { region } = await owner.call('register', { bytes: MIB, seed: 3n, writable: false })
    const peer = await readers[index]!.connect(descriptors[index]!, CONNECT)
    await peer.read(whole(region, memory))
    turns.push(async () => {
      const { bytes, milliseconds } = await peer.read(whole(region, memory, times))
      return bytes / 1e3 / milliseconds
    })
  }
  turns.push(() => ibReadBandwidth(times))
  const rates: number[][] = turns.map(() => [])
  for (let round = 0; round < 3; round++) {
    for (const [index, turn] of turns.entries()) rates[index]!.push(await turn())
  }
  for (const reader of readers) await reader.close()
  for (const owner of owners) await owner.stop()
  const [ucx, verbs, perftest] = rates as [number[], number[], number[]]
  const share = (of: number[]) => `${((100 * median(ucx)) / median(of)).toFixed(0)} %`
  return `UCX ${list(ucx)} MB/s, verbs ${list(verbs)}, ib_read_bw ${list(perftest)}: ${share(verbs)} of verbs, ${share(perftest)} of ib_read_bw`
})

finish()
