/** One end of a measured wire: serves a memory, or reads and writes one of the other end when it is asked to. */
import { ContiguousCopies, type EndpointDescriptor, type OneSidedPeer, type RegionDescriptor } from '@ckpt/contract'
import { createHost, createTcpEndpoint, createUcxEndpoint } from '@ckpt/transport'

/** What this process is, as JSON on its command line. */
export interface WireEnd {
  readonly wire: 'tcp' | 'ucx'
  readonly bytes: number
  /** Address to listen on. */
  readonly address: string
}

/** The other end, for the one that reads. */
export interface WirePoint {
  readonly endpoint: EndpointDescriptor
  readonly region: RegionDescriptor
}

export type WireRequest = { readonly connect: WirePoint } | { readonly move: 'read' | 'write' } | { readonly digest: true }

const SECRET = 'for measurements: not a secret'
const TIMEOUT_MS = 60_000
const { wire, bytes, address } = JSON.parse(process.argv[2]!) as WireEnd
const host = createHost()
const memory = await host.allocate({ bytes, lock: false })
// Makes it present, so that no read pays for new pages.
await host.fill(memory, { seed: BigInt(process.pid) })
const endpoint =
  wire === 'tcp'
    ? createTcpEndpoint({ listen: [`${address}:0`], secret: SECRET, protection: 'none' })
    : await createUcxEndpoint({ listen: `${address}:0`, secret: SECRET })
const { descriptor: region } = await endpoint.register(memory, { writable: wire === 'ucx' })
let peer: OneSidedPeer | undefined
let far: RegionDescriptor | undefined

async function answer(request: WireRequest): Promise<unknown> {
  if ('connect' in request) {
    far = request.connect.region
    peer = await endpoint.connect(request.connect.endpoint, { secret: SECRET, timeoutMs: TIMEOUT_MS })
    return 'transports' in peer ? peer.transports : []
  }
  if ('digest' in request) return String((await host.digest([memory], [{ memory: 0, offset: 0, bytes }]))[0])
  const transfers = new ContiguousCopies(Float64Array.of(0, 0, 0, 0, bytes))
  const batch = { regions: [far!], memories: [memory], transfers, timeoutMs: TIMEOUT_MS }
  const { milliseconds } = request.move === 'read' ? await peer!.read(batch) : await peer!.write!(batch)
  return bytes / milliseconds / 1e6
}

process.on('message', (request: WireRequest) => {
  answer(request).then(
    (value) => process.send!({ value }),
    (error: unknown) => process.send!({ error: error instanceof Error ? error.message : String(error) }),
  )
})
process.on('disconnect', () => process.exit(0))
process.send!({ endpoint: endpoint.descriptor, region } satisfies WirePoint)
