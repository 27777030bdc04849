/**
 * A one-sided endpoint alone, for measurements: `serve ADDRESS BYTES` prints how to read it, `read DESCRIPTION STREAMS REPEAT`
 * reads it and prints the rate.
 */
import { type EndpointDescriptor, type RegionDescriptor, ContiguousCopies } from '@ckpt/contract'
import { createHost, createTcpEndpoint } from '@ckpt/transport'

const SECRET = 'for measurements: not a secret'
const SEED = 99n
const [, , command, where, number, repeat] = process.argv
const host = createHost()

async function serve(address: string, bytes: number): Promise<void> {
  const memory = await host.allocate({ bytes, lock: false })
  await host.fill(memory, { seed: SEED })
  const endpoint = createTcpEndpoint({ listen: [address], secret: SECRET })
  const { descriptor } = await endpoint.register(memory)
  process.stdout.write(`${JSON.stringify({ endpoint: endpoint.descriptor, region: descriptor })}\n`)
  // Until it is killed, or its parent has ended.
  process.stdin.resume().on('end', () => process.exit(0))
  setInterval(() => undefined, 60_000)
}

async function read(description: string, streams: number, rounds: number): Promise<void> {
  const { endpoint, region } = JSON.parse(description) as { endpoint: EndpointDescriptor; region: RegionDescriptor }
  const own = createTcpEndpoint({ listen: ['127.0.0.1:0'], secret: SECRET, streams })
  const peer = await own.connect(endpoint, { secret: SECRET, timeoutMs: 10_000 })
  const memory = await host.allocate({ bytes: region.bytes, lock: false })
  const { bytes } = region
  const transfers = ContiguousCopies.from([{ source: 0, sourceOffset: 0, destination: 0, destinationOffset: 0, bytes }])
  const bytesPerSecond: number[] = []
  for (let round = 0; round < rounds; round++) {
    const stats = await peer.read({ regions: [region], memories: [memory], transfers, timeoutMs: 10_000 })
    bytesPerSecond.push(stats.bytes / (stats.milliseconds / 1000))
  }
  const ranges = [{ memory: 0, offset: 0, bytes: region.bytes }]
  const [digest] = await host.digest([memory], ranges)
  await host.fill(memory, { seed: SEED })
  const [expected] = await host.digest([memory], ranges)
  process.stdout.write(`${JSON.stringify({ bytesPerSecond, digestMatches: digest === expected })}\n`)
  await own.close()
  memory.close()
}

if (command === 'serve') await serve(where!, Number(number))
else await read(where!, Number(number), Number(repeat))
