/** A process that serves a region over UCX, or reads one again and again. */
import { ContiguousCopies, type EndpointDescriptor, type RegionDescriptor } from '@ckpt/contract'
import { createHost } from '../host/host.ts'
import { connect, secret } from '../testing/secret.fixture.ts'
import { createUcxEndpoint } from './endpoint.ts'

/** What this process is asked to do. */
export type Task =
  { readonly own: true } | { readonly read: { readonly descriptor: EndpointDescriptor; readonly region: RegionDescriptor } }

const BYTES = 64 * 2 ** 20
const task = JSON.parse(process.argv[2]!) as Task
const memory = await createHost().allocate({ bytes: BYTES, lock: false })
const endpoint = await createUcxEndpoint({ listen: '127.0.0.1:0', secret, transports: 'tcp', pieceBytes: 65_536 })
process.on('disconnect', () => process.exit(0))
if ('own' in task) {
  memory.view(0, 8).write('the end.', 'latin1')
  const { descriptor: region } = await endpoint.register(memory)
  process.send!({ descriptor: endpoint.descriptor, region })
} else {
  const { descriptor, region } = task.read
  const peer = await endpoint.connect(descriptor, connect)
  const transfers = new ContiguousCopies(Float64Array.of(0, 0, 0, 0, region.bytes))
  for (let round = 0; ; round++) {
    await peer.read({ regions: [region], memories: [memory], transfers, timeoutMs: 20_000 })
    if (round === 0) process.send!('reading')
  }
}
