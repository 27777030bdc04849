// One member of a collective as a separate process, for processes.test.ts: exchanges with the others through its parent.
import { CkptError } from '@ckpt/contract'
import { beMember } from '../processes.fixture.ts'
import { createHostDevice } from './device.ts'
import { expectedDigests, testJob, testPlan, testSource } from './pipeline.fixture.ts'

export interface ChildOrder {
  readonly position: number
  readonly members: number
  readonly runs: number
  readonly timeoutMs: number
  /** Event in the middle of the first run. */
  readonly then: 'go on' | 'kill' | 'exit'
}

beMember(async (order: ChildOrder, exchange) => {
  const { position, members, timeoutMs } = order
  const plan = testPlan(members, 30, 200_000, 1 << 20)
  const device = await createHostDevice({ rank: position })
  const expected = await expectedDigests(device.host, plan)
  const source = await testSource(device.host, plan, position)
  const ring = await device.createRing(plan.ringBytes)
  if (ring.handle.kind !== 'shm') throw new Error('not shared memory')
  const { name, offset: start } = ring.handle
  const collective = await device.createCollective({ position, size: members, exchange, timeoutMs })
  const mapped = await device.host.openShared(name)
  let checked = 0
  for (let turn = 0; turn < order.runs; turn++) {
    let work = Promise.resolve()
    const onBucket = (bucket: number): void => {
      if (bucket === 7 && order.then === 'kill') process.kill(process.pid, 'SIGKILL')
      if (bucket === 7 && order.then === 'exit') process.exit(0)
      work = work.then(async () => {
        const offset = start + plan.buckets.ringOffset[bucket]!
        const [digest] = await device.host.digest([mapped], [{ memory: 0, offset, bytes: plan.buckets.bytes[bucket]! }])
        if (digest !== expected[bucket]) {
          throw new CkptError('DIGEST_MISMATCH', `bucket ${bucket} at member ${position} has other bytes`)
        }
        checked++
        run.release(bucket)
      })
      work.catch((error: unknown) => run.abort(CkptError.from(error, 'UPDATE_FAILED')))
    }
    const run = await collective.run(testJob(plan, position, ring, source, { onBucket, timeoutMs }))
    await run.finished
    await work
  }
  mapped.close()
  await device.close()
  return checked
})
