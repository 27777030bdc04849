import type { CopyColumns, Exchange, Host, HostMemory, PipelineJob, PipelineMode, Ring } from '@ckpt/contract'

/** Plan of a test's pipeline: buckets in a byte ring, each a contiguous run of its owner's single source. */
export interface TestPlan {
  readonly members: number
  readonly ringBytes: number
  readonly buckets: PipelineJob['buckets']
  /** Offset of each bucket in its owner's source. */
  readonly sourceOffset: readonly number[]
  readonly sourceBytes: readonly number[]
}

/** Returns `count` buckets of differing sizes up to `bucketBytes`, with alternating owners. */
export function testPlan(members: number, count: number, bucketBytes: number, ringBytes: number): TestPlan {
  const bytes = (b: number): number => Math.max(1, bucketBytes - ((b * 7919) % Math.floor(bucketBytes / 2)))
  return planOf(
    members,
    ringBytes,
    Array.from({ length: count }, (_, b) => ({ owner: b % members, bytes: bytes(b) })),
  )
}

/** Returns these buckets in this order, one after another in the ring, from its beginning again if one does not fit. */
export function planOf(members: number, ringBytes: number, list: readonly { owner: number; bytes: number }[]): TestPlan {
  const count = list.length
  const owner = Uint32Array.from(list, (bucket) => bucket.owner)
  const bytes = Float64Array.from(list, (bucket) => bucket.bytes)
  const ringOffset = new Float64Array(count)
  const after = new Int32Array(count).fill(-1)
  const sourceOffset: number[] = []
  const sourceBytes = new Array<number>(members).fill(0)
  let at = 0
  for (let b = 0; b < count; b++) {
    if (at + bytes[b]! > ringBytes) at = 0
    ringOffset[b] = at
    at += bytes[b]!
    for (let a = 0; a < b; a++) {
      if (ringOffset[a]! < at && ringOffset[b]! < ringOffset[a]! + bytes[a]!) after[b] = a
    }
    sourceOffset.push(sourceBytes[owner[b]!]!)
    sourceBytes[owner[b]!]! += bytes[b]!
  }
  return { members, ringBytes, buckets: { count, owner, bytes, ringOffset, after }, sourceOffset, sourceBytes }
}

/** Returns the member's source, filled with bytes that depend on the member. */
export async function testSource(host: Host, plan: TestPlan, position: number): Promise<HostMemory> {
  const memory = await host.allocate({ bytes: Math.max(1, plan.sourceBytes[position]!), lock: false })
  await host.fill(memory, { seed: BigInt(1000 + position) })
  return memory
}

/** Returns the digest of every bucket, computed only from the sources. */
export async function expectedDigests(host: Host, plan: TestPlan): Promise<BigUint64Array> {
  const sources = await Promise.all(plan.sourceBytes.map((_, position) => testSource(host, plan, position)))
  const ranges = plan.sourceOffset.map((offset, b) => ({
    memory: plan.buckets.owner[b]!,
    offset,
    bytes: plan.buckets.bytes[b]!,
  }))
  const digests = await host.digest(sources, ranges)
  for (const source of sources) source.close()
  return digests
}

/** Returns the member's job: two copies per bucket. */
export function testJob(
  plan: TestPlan,
  position: number,
  ring: Ring,
  source: HostMemory,
  options: { onBucket: (bucket: number) => void; mode?: PipelineMode; timeoutMs?: number; chunkBytes?: number },
): PipelineJob {
  const { buckets } = plan
  const rows: [number, number, number][] = []
  const firstCopy = [0]
  for (let b = 0; b < buckets.count; b++) {
    if (buckets.owner[b] === position) {
      const half = Math.floor(buckets.bytes[b]! / 2)
      rows.push([plan.sourceOffset[b]! + half, half, buckets.bytes[b]! - half], [plan.sourceOffset[b]!, 0, half])
    }
    firstCopy.push(rows.length)
  }
  const copies: CopyColumns = {
    count: rows.length,
    segment: new Uint32Array(rows.length),
    segmentOffset: Float64Array.from(rows, (row) => row[0]),
    bucketOffset: Float64Array.from(rows, (row) => row[1]),
    bytes: Float64Array.from(rows, (row) => row[2]),
    firstCopy: Uint32Array.from(firstCopy),
  }
  return {
    ring,
    buckets,
    copies,
    sources: [source],
    chunkBytes: options.chunkBytes ?? 64 << 10,
    mode: options.mode ?? 'pipelined',
    timeoutMs: options.timeoutMs ?? 20_000,
    onBucket: options.onBucket,
  }
}

/** Returns an exchange among members in one process. */
export function memoryExchange(size: number): (position: number) => Exchange {
  const rounds = new Map<string, { values: unknown[]; here: number; all: Promise<unknown[]>; done: (all: unknown[]) => void }>()
  return (position) =>
    async <T>(key: string, value: T): Promise<T[]> => {
      let round = rounds.get(key)
      if (round === undefined) {
        let done!: (all: unknown[]) => void
        const all = new Promise<unknown[]>((resolve) => (done = resolve))
        round = { values: [], here: 0, all, done }
        rounds.set(key, round)
      }
      round.values[position] = value
      if (++round.here === size) {
        rounds.delete(key)
        round.done(round.values)
      }
      return (await round.all) as T[]
    }
}
