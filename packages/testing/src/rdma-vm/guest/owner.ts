/** A process that serves regions by verbs or UCX and otherwise follows its parent's calls. */
import type { EndpointDescriptor, HostMemory, RegionDescriptor, RegisteredRegion } from '@ckpt/contract'
import {
  createHost,
  createRdmaEndpoint,
  createUcxEndpoint,
  type RdmaNic,
  type RdmaOneSided,
  type UcxOneSided,
} from '@ckpt/transport'

export interface OwnerCalls {
  start: [{ listen: string; nics: RdmaNic[]; secret: string }, EndpointDescriptor]
  startUcx: [{ listen: string; secret: string }, EndpointDescriptor]
  /** Creates and registers a memory with its own bytes. */
  register: [{ bytes: number; seed: bigint; writable: boolean }, { region: RegionDescriptor; digest: bigint }]
  closeRegion: [{ index: number }, null]
  digest: [{ index: number }, bigint]
  connections: [null, number]
  /** Keeps its JavaScript busy, starting after the answer. */
  block: [{ milliseconds: number }, null]
}

const host = createHost()
const memories: HostMemory[] = []
const regions: RegisteredRegion[] = []
let endpoint: RdmaOneSided | UcxOneSided | undefined

async function digest(memory: HostMemory): Promise<bigint> {
  return (await host.digest([memory], [{ memory: 0, offset: 0, bytes: memory.bytes }]))[0]!
}

const handlers: { [K in keyof OwnerCalls]: (argument: OwnerCalls[K][0]) => Promise<OwnerCalls[K][1]> } = {
  async start(options) {
    endpoint = await createRdmaEndpoint({ ...options, connection: { timeout: 16, retries: 3 } })
    return endpoint.descriptor
  },
  async startUcx(options) {
    endpoint = await createUcxEndpoint(options)
    return endpoint.descriptor
  },
  async register({ bytes, seed, writable }) {
    const memory = await host.allocate({ bytes, lock: false })
    await host.fill(memory, { seed })
    const region = await endpoint!.register(memory, { writable })
    memories.push(memory)
    regions.push(region)
    return { region: region.descriptor, digest: await digest(memory) }
  },
  async closeRegion({ index }) {
    await regions[index]!.close()
    return null
  },
  digest: ({ index }) => digest(memories[index]!),
  connections: () => Promise.resolve(endpoint!.connections),
  block({ milliseconds }) {
    setTimeout(() => {
      const end = performance.now() + milliseconds
      while (performance.now() < end);
    }, 10)
    return Promise.resolve(null)
  },
}

process.on('message', ({ call, argument }: { call: keyof OwnerCalls; argument: unknown }) => {
  const handler = handlers[call] as (argument: unknown) => Promise<unknown>
  handler(argument).then(
    (value) => process.send!({ value }),
    (error: unknown) => process.send!({ error: error instanceof Error ? `${error.stack}` : String(error) }),
  )
})
process.on('disconnect', () => process.exit(0))
