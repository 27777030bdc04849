/**
 * One of two machines: the owner registers memory and waits; the joiner finds it through files in the shared folder, and reads.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { type EndpointDescriptor, type RegionDescriptor, ContiguousCopies } from '@ckpt/contract'
import { chooseNics, createHost, createRdmaEndpoint, probeRdma } from '@ckpt/transport'
import { expectEqual, failureOf, finish, test } from './report.ts'

const MIB = 2 ** 20
const BYTES = 24 * MIB + 7
/** More than a guest needs that is booted again. */
const PATIENCE_MS = 240_000

interface Left {
  readonly descriptor: EndpointDescriptor
  readonly region: RegionDescriptor
  readonly digest: string
}

const [role = '', address = '', folder = ''] = process.argv.slice(2)
const secret = 'a secret of two machines 0123456789'
const host = createHost()
const { nics } = chooseNics((await probeRdma()).devices, {})
const endpoint = await createRdmaEndpoint({ listen: `${address}:0`, secret, nics, connection: { timeout: 17, retries: 6 } })
const memory = await host.allocate({ bytes: BYTES, lock: false })
const digest = async (): Promise<string> => String((await host.digest([memory], [{ memory: 0, offset: 0, bytes: BYTES }]))[0])

if (role === 'owner') {
  await host.fill(memory, { seed: 77n })
  const region = await endpoint.register(memory)
  const left: Left = { descriptor: endpoint.descriptor, region: region.descriptor, digest: await digest() }
  writeFileSync(`${folder}/owner.part`, JSON.stringify(left))
  renameSync(`${folder}/owner.part`, `${folder}/owner.json`)
  await appears(`${folder}/done`)
} else {
  await appears(`${folder}/owner.json`)
  const { descriptor, region, digest: expected } = JSON.parse(readFileSync(`${folder}/owner.json`, 'utf8')) as Left
  await test(`READ of ${BYTES} bytes from another machine`, async () => {
    const peer = await endpoint.connect(descriptor, { secret, timeoutMs: PATIENCE_MS })
    const request = {
      regions: [region],
      memories: [memory],
      transfers: new ContiguousCopies(Float64Array.of(0, 0, 0, 0, BYTES)),
      timeoutMs: 20_000,
    }
    const { bytes, milliseconds } = await peer.read(request)
    expectEqual([bytes, await digest()], [BYTES, expected], 'bytes and digest')
    await peer.close()
    return `${(bytes / 1e3 / milliseconds).toFixed(0)} MB/s`
  })
  await test('the other machine refuses a wrong secret', async () => {
    const { error } = await failureOf(endpoint.connect(descriptor, { secret: `not ${secret}`, timeoutMs: PATIENCE_MS }))
    expectEqual(error.code, 'PEER_UNAUTHORIZED', 'code')
  })
  writeFileSync(`${folder}/done`, '')
}
await endpoint.close()
finish()

async function appears(file: string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!existsSync(file)) {
    if (performance.now() > deadline) throw new Error(`${file} did not appear`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
