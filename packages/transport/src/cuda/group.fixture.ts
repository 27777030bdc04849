import { expect } from 'vitest'
import type { Collective, HostMemory, PipelineMode, PipelineStats, Ring } from '@ckpt/contract'
import { createHost } from '../host/host.ts'
import { expectedDigests, memoryExchange, testJob, testSource, type TestPlan } from '../host/pipeline.fixture.ts'
import type { CudaDevice } from './device.ts'

/** Resources of a member of a test. */
export interface Member {
  readonly collective: Collective
  readonly ring: Ring
  readonly source: HostMemory
}

/** Creates members on all devices, with rings and sources for the plan. */
export async function group(plan: TestPlan, devices: readonly CudaDevice[], pinned: boolean): Promise<Member[]> {
  const exchange = memoryExchange(devices.length)
  return Promise.all(
    devices.map(async (device, position) => {
      const options = { position, size: devices.length, exchange: exchange(position), timeoutMs: 30_000 }
      const collective = await device.createCollective(options)
      const ring = await device.createRing(plan.ringBytes)
      if (!pinned) return { collective, ring, source: await testSource(device.host, plan, position) }
      const source = await device.host.allocate({ bytes: Math.max(1, plan.sourceBytes[position]!) })
      await device.host.fill(source, { seed: BigInt(1000 + position) })
      return { collective, ring, source }
    }),
  )
}

/** Options for running a plan. */
export interface RunOptions {
  readonly mode: PipelineMode
  readonly chunkBytes?: number
  readonly lateMs?: number
}

/** Runs a plan on all devices, then closes its members; see {@link runGroup}. */
export async function runAll(
  plan: TestPlan,
  devices: readonly CudaDevice[],
  options: RunOptions & { readonly pinned: boolean },
): Promise<PipelineStats[]> {
  const members = await group(plan, devices, options.pinned)
  const stats = await runGroup(plan, devices, members, options)
  await Promise.all(members.map(({ collective }) => collective.close()))
  await Promise.all(members.map(({ ring }) => ring.close()))
  for (const { source } of members) source.close()
  return stats
}

/** Runs a plan; every bucket's digest on every device must equal that of its source. */
export async function runGroup(
  plan: TestPlan,
  devices: readonly CudaDevice[],
  members: readonly Member[],
  options: RunOptions,
): Promise<PipelineStats[]> {
  const expected = await expectedDigests(createHost(), plan)
  return Promise.all(
    members.map(async ({ collective, ring, source }, position) => {
      const device = devices[position]!
      const digests: Promise<bigint>[] = []
      const running = collective.run(
        testJob(plan, position, ring, source, {
          mode: options.mode,
          chunkBytes: options.chunkBytes ?? 1 << 20,
          onBucket: (bucket) => {
            expect(bucket).toBe(digests.length)
            digests.push(load(bucket))
          },
        }),
      )
      const load = async (bucket: number): Promise<bigint> => {
        const range = { memory: 0, offset: plan.buckets.ringOffset[bucket]!, bytes: plan.buckets.bytes[bucket]! }
        const earlier = digests[bucket - 1]
        const [digest] = await device.digest([ring], [range])
        await earlier
        if (position === 1 && options.lateMs) await new Promise((resolve) => setTimeout(resolve, options.lateMs))
        const run = await running
        run.release(bucket)
        return digest!
      }
      const stats = await (await running).finished
      expect(BigUint64Array.from(await Promise.all(digests))).toEqual(expected)
      expect(stats.h2dBytes).toBe(plan.sourceBytes[position])
      if (devices.length > 1) expect(stats.broadcastBytes).toBe(plan.buckets.bytes.reduce((sum, bytes) => sum + bytes, 0))
      expect(stats.spans.length % 4).toBe(0)
      expect(stats.h2dMs > 0).toBe(plan.sourceBytes[position]! > 0)
      return stats
    }),
  )
}
