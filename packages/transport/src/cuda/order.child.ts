// One member of a group of GPUs as a separate process, for order-processes.test.ts: exchanges with the others through its
// parent.
import { CkptError, type PipelineOrder } from '@ckpt/contract'
import { createHost } from '../host/host.ts'
import { expectedDigests, testJob, testPlan } from '../host/pipeline.fixture.ts'
import { beMember } from '../processes.fixture.ts'
import { createCudaDevice } from './device.ts'

export interface OrderRun {
  readonly order: PipelineOrder | undefined
  /** Time from the call of `run` to the pipeline's beginning, and from there to its end, in milliseconds. */
  readonly beginMs: number
  readonly runMs: number
}

export interface Place {
  readonly position: number
  readonly members: number
}

const MIB = 2 ** 20

beMember(async ({ position, members }: Place, exchange) => {
  const plan = testPlan(members, 16, 64 * MIB, 384 * MIB)
  const expected = await expectedDigests(createHost(), plan)
  const device = await createCudaDevice({ index: position })
  const source = await device.host.allocate({ bytes: plan.sourceBytes[position]! })
  await device.host.fill(source, { seed: BigInt(1000 + position) })
  const ring = await device.createRing(plan.ringBytes)
  const collective = await device.createCollective({ position, size: members, exchange, timeoutMs: 30_000 })
  const runs: OrderRun[] = []
  for (let turn = 0; turn < 3; turn++) {
    await exchange(`turn ${turn}`, 0)
    let work = Promise.resolve()
    const onBucket = (bucket: number): void => {
      work = work.then(async () => {
        const range = { memory: 0, offset: plan.buckets.ringOffset[bucket]!, bytes: plan.buckets.bytes[bucket]! }
        const [digest] = await device.digest([ring], [range])
        if (digest !== expected[bucket]) throw new CkptError('DIGEST_MISMATCH', `bucket ${bucket} at member ${position}`)
        run.release(bucket)
      })
      work.catch((error: unknown) => run.abort(CkptError.from(error, 'UPDATE_FAILED')))
    }
    const start = performance.now()
    const run = await collective.run(testJob(plan, position, ring, source, { onBucket, chunkBytes: 16 * MIB }))
    const begun = performance.now()
    const { order } = await run.finished
    runs.push({ order, beginMs: begun - start, runMs: performance.now() - begun })
    await work
  }
  source.close()
  await device.close()
  return runs
})
