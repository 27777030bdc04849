import type { AccessPoint, HostMemory, OpenedMemory, RegisteredRegion, SpreadAccess } from '@ckpt/contract'
import { reachRank } from './reach.ts'
import type { Serving } from './serving/serving.ts'

/** Opens memory to other ranks for the time of an update, and connects to what they opened. */
export function openingOf(serving: Serving, checkpoint: string): Pick<SpreadAccess, 'open' | 'connect'> {
  return {
    async open(memory: HostMemory): Promise<OpenedMemory> {
      const regions: RegisteredRegion[] = []
      const points: AccessPoint[] = []
      const close = async (): Promise<void> => {
        await Promise.all(regions.map((region) => region.close()))
      }
      try {
        for (const { endpoint, secret } of await serving.endpoints()) {
          const region = await endpoint.register(memory)
          regions.push(region)
          points.push({ endpoint: endpoint.descriptor, regions: [region.descriptor], secret })
        }
        return { points, close }
      } catch (error) {
        await close()
        throw error
      }
    },
    async connect(access, options) {
      const endpoints = (await serving.endpoints()).map(({ endpoint }) => endpoint)
      return reachRank({ checkpoint, access: [access], endpoints }, access.rank, options)
    },
  }
}
