/** The other side of a connection: a process that only sets things up and then answers with its devices alone. */
import { createHash } from 'node:crypto'
import {
  openDevice,
  type RdmaDevice,
  type RdmaEndpoint,
  type RdmaMemoryRegion,
  type RdmaQueuePair,
} from '@ckpt/rdma-core-bindings'
import { fill, pages } from './bytes.ts'

/** Calls of the parent, with their results. */
export interface PeerCalls {
  serve: [{ devices: string[]; bytes: number; seed: number; writable: boolean; pairs: number; gidIndex: number }, Served]
  connect: [{ endpoints: RdmaEndpoint[]; timeout: number; retries: number }, null]
  digest: [null, string]
  closeRegions: [null, null]
}

export interface Served {
  readonly address: bigint
  /** By device. */
  readonly remoteKeys: number[]
  /** By device, `pairs` each. */
  readonly endpoints: RdmaEndpoint[][]
}

const devices: RdmaDevice[] = []
const regions: RdmaMemoryRegion[] = []
const pairs: RdmaQueuePair[] = []
let memory: Buffer | undefined

const handlers: { [K in keyof PeerCalls]: (argument: PeerCalls[K][0]) => Promise<PeerCalls[K][1]> } = {
  async serve({ devices: names, bytes, seed, writable, pairs: count, gidIndex }) {
    memory = pages(bytes)
    fill(memory, seed)
    const endpoints: RdmaEndpoint[][] = []
    for (const name of names) {
      const device = await openDevice(name)
      devices.push(device)
      regions.push(await device.registerMemory(memory, { localWrite: writable, remoteRead: true, remoteWrite: writable }))
      const own: RdmaQueuePair[] = []
      for (let i = 0; i < count; i++) own.push(await device.createQueuePair({ gidIndex }))
      pairs.push(...own)
      endpoints.push(own.map(({ local }) => local))
    }
    return { address: regions[0]!.address, remoteKeys: regions.map(({ remoteKey }) => remoteKey), endpoints }
  },
  async connect({ endpoints, timeout, retries }) {
    await Promise.all(pairs.map((pair, index) => pair.connect(endpoints[index]!, { timeout, retries })))
    return null
  },
  digest: () => Promise.resolve(createHash('sha256').update(memory!).digest('hex')),
  async closeRegions() {
    await Promise.all(regions.map((region) => region.close()))
    return null
  },
}

process.on('message', ({ call, argument }: { call: keyof PeerCalls; argument: unknown }) => {
  const handler = handlers[call] as (argument: unknown) => Promise<unknown>
  handler(argument).then(
    (value) => process.send!({ value }),
    (error: unknown) => process.send!({ error: error instanceof Error ? `${error.stack}` : String(error) }),
  )
})
process.on('disconnect', () => process.exit(0))
