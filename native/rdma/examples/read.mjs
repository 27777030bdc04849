// Reads a buffer of this process by RDMA, over a device's own loopback: node examples/read.mjs DEVICE GID-INDEX
import { openDevice, transfer } from '@ckpt/rdma-core-bindings'

const [name = 'mlx5_0', gid = '3'] = process.argv.slice(2)
const gidIndex = Number(gid)

const device = await openDevice(name)

// One side serves: any connected peer that knows address and key may read its memory.
const source = Buffer.from(new ArrayBuffer(64 * 2 ** 20)).fill('weights ')
const served = await device.registerMemory(source, { localWrite: false, remoteRead: true })
const server = await device.createQueuePair({ gidIndex, depth: 1 })

// The other side reads. Between two machines the endpoints, address and key go over any channel that both trust.
const target = Buffer.from(new ArrayBuffer(source.length))
const local = await device.registerMemory(target)
const client = await device.createQueuePair({ gidIndex })
await Promise.all([server.connect(client.local), client.connect(server.local)])

const start = performance.now()
const bytes = await transfer('read', {
  lanes: [{ pair: client, local: [local], remoteKeys: [served.remoteKey] }],
  remotes: [{ address: served.address, bytes: served.bytes }],
  // Five numbers per transfer: remote, offset there, local memory, offset there, bytes.
  transfers: Float64Array.of(0, 0, 0, 0, source.length),
})
const seconds = (performance.now() - start) / 1000
console.log(`${bytes} bytes at ${(bytes / 1e9 / seconds).toFixed(2)} GB/s, ${target.equals(source) ? 'the same' : 'DIFFERENT'}`)

await Promise.all([client.close(), server.close()])
await Promise.all([local.close(), served.close()])
await device.close()
