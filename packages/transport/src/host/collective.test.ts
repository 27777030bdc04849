import { existsSync } from 'node:fs'
import { CkptError, type Collective, type Device, type HostMemory, type PipelineRun, type Ring } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createHostDevice } from './device.ts'
import { expectedDigests, memoryExchange, testJob, testPlan, testSource, type TestPlan } from './pipeline.fixture.ts'

interface Member {
  readonly collective: Collective
  readonly ring: Ring
  readonly source: HostMemory
}

let device: Device
beforeEach(async () => {
  device = await createHostDevice()
})
afterEach(() => device.close())

async function join(plan: TestPlan, timeoutMs = 20_000): Promise<Collective[]> {
  const exchange = memoryExchange(plan.members)
  return Promise.all(
    plan.sourceBytes.map((_, position) =>
      device.createCollective({ position, size: plan.members, exchange: exchange(position), timeoutMs }),
    ),
  )
}

async function group(plan: TestPlan): Promise<Member[]> {
  const collectives = await join(plan)
  return Promise.all(
    collectives.map(async (collective, position) => ({
      collective,
      ring: await device.createRing(plan.ringBytes),
      source: await testSource(device.host, plan, position),
    })),
  )
}

/** Runs the plan at one member; a separate engine worker maps the ring by name, checks each bucket and releases it. */
async function follow(plan: TestPlan, member: Member, expected: BigUint64Array, mode: 'pipelined' | 'serial' = 'pipelined') {
  const { handle } = member.ring
  if (handle.kind !== 'shm') throw new Error('not shared memory')
  const mapped = await device.host.openShared(handle.name)
  const delivered: number[] = []
  let work = Promise.resolve()
  const run: PipelineRun = await member.collective.run(
    testJob(plan, member.collective.position, member.ring, member.source, {
      mode,
      onBucket(bucket) {
        delivered.push(bucket)
        work = work.then(async () => {
          const range = {
            memory: 0,
            offset: handle.offset + plan.buckets.ringOffset[bucket]!,
            bytes: plan.buckets.bytes[bucket]!,
          }
          const [digest] = await device.host.digest([mapped], [range])
          expect(digest, `bucket ${bucket} at member ${member.collective.position}`).toBe(expected[bucket])
          run.release(bucket)
        })
      },
    }),
  )
  const stats = await run.finished
  await work
  mapped.close()
  expect(delivered).toEqual(Array.from({ length: plan.buckets.count }, (_, b) => b))
  return stats
}

function failure(promise: Promise<unknown>): Promise<CkptError> {
  return promise.then(
    () => expect.unreachable('the run must fail'),
    (error: unknown) => {
      expect(CkptError.is(error)).toBe(true)
      return error as CkptError
    },
  )
}

function startAll(
  plan: TestPlan,
  members: readonly Member[],
  onBucket: (position: number, bucket: number, run: PipelineRun) => void,
  timeoutMs = 20_000,
) {
  return Promise.all(
    members.map(async ({ collective, ring, source }, position) => {
      const run: PipelineRun = await collective.run(
        testJob(plan, position, ring, source, { timeoutMs, onBucket: (bucket) => onBucket(position, bucket, run) }),
      )
      return run
    }),
  )
}

describe('host collective', () => {
  it.each(['pipelined', 'serial'] as const)(
    'delivers every byte to every member in order, run after run (%s)',
    async (mode) => {
      const plan = testPlan(3, 40, 300_000, 1 << 20)
      const expected = await expectedDigests(device.host, plan)
      const members = await group(plan)
      for (let run = 0; run < 3; run++) {
        const stats = await Promise.all(members.map((member) => follow(plan, member, expected, mode)))
        const total = plan.sourceBytes.reduce((sum, bytes) => sum + bytes, 0)
        stats.forEach((one, position) => {
          expect(one.h2dBytes).toBe(plan.sourceBytes[position])
          expect(one.broadcastBytes).toBe(total - plan.sourceBytes[position]!)
          expect(one.spans.length).toBe(4 * plan.buckets.count)
          expect(one.h2dMs).toBeGreaterThan(0)
        })
      }
    },
  )

  it('takes a ring that another replaced between runs', async () => {
    const plan = testPlan(2, 12, 100_000, 1 << 18)
    const expected = await expectedDigests(device.host, plan)
    const members = await group(plan)
    await Promise.all(members.map((member) => follow(plan, member, expected)))
    await members[1]!.ring.close()
    members[1] = { ...members[1]!, ring: await device.createRing(plan.ringBytes) }
    await Promise.all(members.map((member) => follow(plan, member, expected)))
  })

  it('runs alone', async () => {
    const plan = testPlan(1, 10, 100_000, 1 << 18)
    const [member] = await group(plan)
    const stats = await follow(plan, member!, await expectedDigests(device.host, plan))
    expect(stats.broadcastBytes).toBe(0)
  })

  it('ends every member when one aborts, and works again in a new group on the same rings', async () => {
    const plan = testPlan(3, 40, 100_000, 1 << 19)
    const members = await group(plan)
    const reason = new CkptError('ENGINE_WORKER_ERROR', 'the worker of member 2 ran out of memory')
    const runs = await startAll(plan, members, (position, bucket, run) => {
      if (position === 2 && bucket === 3) run.abort(reason)
      else if (position !== 2) run.release(bucket)
    })
    const errors = await Promise.all(runs.map((run) => failure(run.finished)))
    expect(errors[2]).toBe(reason)
    for (const error of errors.slice(0, 2)) {
      expect(error.code).toBe('ABORTED')
      expect(error.message).toBe('member 2 gave up: the worker of member 2 ran out of memory')
      expect(error.fields['member']).toBe(2)
    }
    expect((await failure(members[0]!.collective.run({} as never))).code).toBe('INVALID_STATE')

    await Promise.all(members.map(({ collective }) => collective.close()))
    const expected = await expectedDigests(device.host, plan)
    const again = await join(plan)
    await Promise.all(members.map((member, position) => follow(plan, { ...member, collective: again[position]! }, expected)))
  })

  it('names the member whose worker never releases', async () => {
    const plan = testPlan(3, 40, 100_000, 1 << 19)
    const runs = await startAll(
      plan,
      await group(plan),
      (position, bucket, run) => {
        if (position !== 1) run.release(bucket)
      },
      400,
    )
    const errors = await Promise.all(runs.map((run) => failure(run.finished)))
    const late = errors.filter((error) => error.code === 'TIMEOUT')
    expect(late.length).toBeGreaterThan(0)
    for (const error of late) expect(error.fields['member']).toBe(1)
    for (const error of errors) expect(error.message).toContain('engine worker of member 1')
  })

  it('ends its wait for members that do not come', async () => {
    const plan = testPlan(2, 4, 1000, 4000)
    const [collective] = await join(plan, 200)
    const ring = await device.createRing(plan.ringBytes)
    const job = testJob(plan, 0, ring, await testSource(device.host, plan, 0), { onBucket: () => undefined })
    expect((await failure(collective!.run(job))).code).toBe('TIMEOUT')
  })

  it('ends by the signal with its reason', async () => {
    const plan = testPlan(1, 10, 100_000, 1 << 18)
    const stop = new AbortController()
    const exchange = memoryExchange(1)(0)
    const collective = await device.createCollective({ position: 0, size: 1, exchange, timeoutMs: 5000, signal: stop.signal })
    const ring = await device.createRing(plan.ringBytes)
    const source = await testSource(device.host, plan, 0)
    const run = await collective.run(testJob(plan, 0, ring, source, { onBucket: () => undefined }))
    const reason = new CkptError('RANK_LOST', 'rank 3 is gone')
    stop.abort(reason)
    expect(await failure(run.finished)).toBe(reason)
  })

  it('turns what onBucket throws into the end of the run', async () => {
    const plan = testPlan(1, 10, 100_000, 1 << 18)
    const [member] = await group(plan)
    const job = testJob(plan, 0, member!.ring, member!.source, {
      onBucket: () => {
        throw new Error('bad day')
      },
    })
    const error = await failure((await member!.collective.run(job)).finished)
    expect(error.code).toBe('UPDATE_FAILED')
    expect(error.message).toContain('bad day')
  })

  it('refuses releases out of order and goes on', async () => {
    const plan = testPlan(1, 10, 50_000, 1 << 18)
    const [member] = await group(plan)
    const codes: unknown[] = []
    const attempt = (release: () => void): void => {
      try {
        release()
        codes.push('done')
      } catch (error) {
        codes.push((error as CkptError).code)
      }
    }
    const run = await member!.collective.run(
      testJob(plan, 0, member!.ring, member!.source, {
        onBucket(bucket) {
          if (bucket === 2) {
            attempt(() => run.release(9))
            attempt(() => run.release(1.5))
            attempt(() => run.release(2))
            attempt(() => run.release(1))
            attempt(() => run.release(2))
          } else if (bucket > 2) run.release(bucket)
        },
      }),
    )
    await run.finished
    expect(codes).toEqual(['INVALID_ARGUMENT', 'INVALID_ARGUMENT', 'done', 'INVALID_STATE', 'INVALID_STATE'])
    expect(() => run.release(3)).not.toThrow()
  })

  it('checks the plan before a byte moves', async () => {
    const plan = testPlan(1, 4, 50_000, 1 << 18)
    const [member] = await group(plan)
    const job = testJob(plan, 0, member!.ring, member!.source, { onBucket: () => undefined })
    const start = async (change: object): Promise<CkptError> => {
      const collective = (await join(plan))[0]!
      return failure(collective.run({ ...job, ...change }))
    }
    const copies = (change: object): object => ({ copies: { ...job.copies, ...change } })
    const buckets = (change: object): object => ({ buckets: { ...plan.buckets, ...change } })
    const outside = Float64Array.from(job.copies.segmentOffset).fill(plan.sourceBytes[0]! - 1, 3, 4)
    const past = Float64Array.from(plan.buckets.ringOffset).fill(plan.ringBytes - 1, 2, 3)
    const cases: [object, RegExp][] = [
      [copies({ segmentOffset: outside }), /copy 3 of bucket 1: .* are outside source 0/],
      [copies({ segment: new Uint32Array(job.copies.count).fill(1) }), /copy 0 of bucket 0: source 1 of 1/],
      [copies({ bucketOffset: new Float64Array(job.copies.count) }), /bucket 0: two copies write/],
      [buckets({ ringOffset: past }), /bucket 2: .* are outside the ring of member 0/],
      [buckets({ after: new Int32Array(4).fill(1) }), /bucket 0: after 1 is not an earlier bucket/],
      [buckets({ owner: new Uint32Array(4).fill(5) }), /bucket 0: owner 5 of 1 members/],
      [buckets({ bytes: new Float64Array(2) }), /bytes has 2 entries/],
      [{ chunkBytes: 0 }, /chunkBytes/],
    ]
    for (const [change, message] of cases) {
      const error = await start(change)
      expect(error.code).toBe('INVALID_ARGUMENT')
      expect(error.message).toMatch(message)
    }
  })

  it('refuses members with different plans, naming the other', async () => {
    const plans = [testPlan(2, 4, 1000, 4000), testPlan(2, 5, 1000, 4000)]
    const members = await group(plans[1]!)
    const errors = await Promise.all(
      members.map(({ collective, ring, source }, position) =>
        failure(collective.run(testJob(plans[position]!, position, ring, source, { onBucket: () => undefined }))),
      ),
    )
    expect(errors.map((error) => [error.code, error.fields['member']])).toEqual([
      ['INVALID_ARGUMENT', 1],
      ['INVALID_ARGUMENT', 0],
    ])
  })

  it('gives back its rings and ends its runs when the device closes', async () => {
    const plan = testPlan(2, 40, 100_000, 1 << 18)
    const members = await group(plan)
    const runs = await startAll(plan, members, () => undefined)
    const names = members.map(({ ring }) => (ring.handle.kind === 'shm' ? ring.handle.name : ''))
    expect(names.every((name) => existsSync(`/dev/shm/${name}`))).toBe(true)
    await device.close()
    for (const run of runs) expect((await failure(run.finished)).code).toBe('ABORTED')
    expect(names.some((name) => existsSync(`/dev/shm/${name}`))).toBe(false)
    await expect(device.createRing(4096)).rejects.toMatchObject({ code: 'INVALID_STATE' })
  })
})
