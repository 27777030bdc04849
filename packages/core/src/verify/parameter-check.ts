import { createHash } from 'node:crypto'
import {
  CkptError,
  SUM_COLUMNS,
  type Blob,
  type CheckedWorker,
  type Host,
  type HostMemory,
  type Manifest,
  type Recording,
  type Rendezvous,
} from '@ckpt/contract'
import {
  comparedInRing,
  decodeReading,
  encodeReading,
  expectedSums,
  findMismatch,
  planVerify,
  registeredTensors,
  sourceSums,
  type Reading,
  type RegisteredTensors,
  type VerifyPlan,
} from '@ckpt/planner'

/** Inputs of one rank to a check of the parameters. */
export interface CheckInputs {
  readonly rendezvous: Rendezvous
  readonly epoch: number
  readonly wait: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly ranks?: readonly number[] }
  /** Participating ranks, ascending. */
  readonly ranks: readonly number[]
  /** Those that hold what the manifest says of them; none if it describes another run's ranks. */
  readonly holders: readonly number[]
  readonly manifest: Manifest
  /** Memory that this rank registered. */
  readonly segments: readonly HostMemory[]
  readonly host: Host
  /** The own worker, once it has finished loading, with its recording; undefined if it has none. */
  readonly worker: CheckedWorker | undefined
}

/** Inputs of {@link ParameterCheck.plan}. */
export type PlanInputs = Pick<CheckInputs, 'rendezvous' | 'epoch' | 'wait' | 'ranks' | 'holders' | 'manifest'>

/** What is compared, as long as workers keep the same parts of tensors that the same ranks hold. */
export interface PlannedCheck {
  readonly key: string
  readonly plan: VerifyPlan
  /** Of the ranks whose workers have a recording. */
  readonly readings: readonly Reading[]
}

/** Result of the comparison over all engine workers. */
export interface CheckedParameters {
  readonly routes: number
  readonly bytes: number
  /** Tensors that were not fully compared for some worker. */
  readonly unchecked: readonly string[]
  /** Ranks whose workers have no recording, so that none of their parameters were compared. */
  readonly unread: readonly number[]
}

/** Registered tensors, with the sums of their words' terms if the metas have digests. */
interface ComparedTensors extends RegisteredTensors {
  readonly expected: BigUint64Array | undefined
}

/** Placeholder for a worker without a recording. */
const NO_READING: Blob = { digest: 'none', payload: new Uint8Array(0) }

/**
 * Compares what engine workers keep with what was registered. Each worker sums the bytes of its parameters by the tensors that
 * they came from, and these sums must add up to the digests that the tensors were registered with (docs/direct.md,
 * "Verification").
 */
export class ParameterCheck {
  #tensors: { readonly manifest: Manifest; readonly value: ComparedTensors } | undefined
  #own: { readonly recording: Recording; readonly tensors: RegisteredTensors; readonly blob: Blob } | undefined
  #plan: PlannedCheck | undefined

  /**
   * Compares the parameters; all participating ranks call it and get the same result. Undefined if the metas have no digests.
   *
   * @throws CkptError `DIGEST_MISMATCH` naming the tensor and the ranks, `ROUTES_STALE`.
   */
  async run(inputs: CheckInputs, planned?: Promise<PlannedCheck>): Promise<CheckedParameters | undefined> {
    const tensors = this.#registered(inputs.manifest)
    const { expected } = tensors
    if (expected === undefined) return undefined
    const { rendezvous, worker } = inputs
    const own = worker && (await sumsOf(worker, rendezvous.rank))
    const { plan, readings } = await (planned ?? this.plan(inputs, own && worker.recording))
    const unread = inputs.ranks.filter((rank) => !readings.some((reading) => reading.rank === rank))
    if (readings.length === 0) return { routes: 0, bytes: 0, unchecked: [], unread }
    const vouched = await vouch(inputs, tensors, plan)
    const sums = await exchangeSums(inputs, plan, readings, own ?? new BigUint64Array(0), vouched)
    const mismatch = findMismatch(plan, expected, readings, sums.own, sums.vouched)
    if (mismatch) {
      const tensor = tensors.names[mismatch.tensor]!
      const text = `tensor ${JSON.stringify(tensor)}: the parameters of the engine workers of ranks ${mismatch.ranks.join(', ')} differ from the registered bytes`
      throw new CkptError('DIGEST_MISMATCH', text, { fields: { tensor, ranks: mismatch.ranks } })
    }
    const unchecked = plan.unchecked.map((tensor) => tensors.names[tensor]!)
    return { routes: plan.routes, bytes: plan.bytes, unchecked, unread }
  }

  /**
   * Exchanges which parts of tensors workers keep, and plans what is compared: all participating ranks call it, before {@link run} if
   * they all know their recordings by then.
   */
  async plan(inputs: PlanInputs, recording: Recording | undefined): Promise<PlannedCheck> {
    const { rendezvous, epoch, wait, manifest } = inputs
    const tensors = this.#registered(manifest)
    const reading = recording ? this.#reading(recording, tensors) : NO_READING
    const blobs = await rendezvous.allGatherBlobs('verify/readings', reading, { epoch, ...wait })
    return this.#planned(blobs, inputs, tensors)
  }

  /** @throws CkptError `DIGEST_MISMATCH` naming the tensor if two ranks hold different bytes under one name. */
  assertConsistent(manifest: Manifest): void {
    this.#registered(manifest)
  }

  /** Names of the tensors that a worker must compare in the ring, although its parameters are read back afterwards. */
  comparedInRing(recording: Recording, manifest: Manifest, holders: readonly number[]): ReadonlySet<string> {
    return comparedInRing(recording, this.#registered(manifest), new Set(holders))
  }

  #registered(manifest: Manifest): ComparedTensors {
    if (this.#tensors?.manifest !== manifest) {
      const tensors = registeredTensors(manifest)
      this.#tensors = { manifest, value: { ...tensors, expected: expectedSums(tensors) } }
    }
    return this.#tensors.value
  }

  #reading(recording: Recording, tensors: RegisteredTensors): Blob {
    if (this.#own?.recording === recording && sameTensors(this.#own.tensors, tensors)) return this.#own.blob
    const payload = encodeReading(recording, tensors)
    const blob = { digest: hash(payload), payload }
    this.#own = { recording, tensors, blob }
    return blob
  }

  /** The plan is kept as long as workers keep the same parts of tensors that the same ranks hold. */
  #planned(blobs: readonly Blob[], { ranks, holders }: PlanInputs, tensors: RegisteredTensors): PlannedCheck {
    const layout = createHash('sha256')
    tensors.names.forEach((name, i) => layout.update(`${name}\n${tensors.bytes[i]!} ${tensors.holders[i]!.rank}\n`))
    const key = [layout.digest('hex'), ranks.join(), holders.join(), ...blobs.map(({ digest }) => digest)].join('/')
    if (this.#plan?.key === key) return this.#plan
    const readings = blobs.flatMap(({ payload }, i) =>
      payload.byteLength === 0 ? [] : [decodeReading(ranks[i]!, payload, tensors)],
    )
    this.#plan = { key, readings, plan: planVerify(tensors, readings, new Set(holders)) }
    return this.#plan
  }
}

/** Undefined if the worker's parameters have moved since they were recorded. */
async function sumsOf({ session, recording, required }: CheckedWorker, rank: number): Promise<BigUint64Array | undefined> {
  const sums = await session.sums(recording)
  if (typeof sums !== 'string') return sums
  if (!required) return undefined
  throw new CkptError('ROUTES_STALE', `the engine worker of rank ${rank} has lost its recording: ${sums}`, { fields: { rank } })
}

function sameTensors(a: RegisteredTensors, b: RegisteredTensors): boolean {
  if (a === b) return true
  return a.names.length === b.names.length && a.names.every((name, i) => name === b.names[i] && a.bytes[i] === b.bytes[i])
}

/**
 * Sums regions of tensors that this rank registered, if the parts that workers keep do not cover a tensor exactly.
 *
 * @throws CkptError `DIGEST_MISMATCH` naming the tensor if its bytes no longer equal the registered ones.
 */
async function vouch(
  { rendezvous: { rank }, manifest, segments, host }: CheckInputs,
  tensors: RegisteredTensors,
  plan: VerifyPlan,
): Promise<BigUint64Array> {
  const vouchers = plan.vouchers.get(rank) ?? []
  if (vouchers.length === 0) return new BigUint64Array(0)
  const { tensors: table } = manifest.ranks.find((one) => one.rank === rank)!
  const place = (tensor: number) => {
    const { row } = tensors.holders[tensor]!
    return { memory: table.segments[row]!, offset: table.offsets[row]!, bytes: table.bytes[row]! }
  }
  const digests = await host.digest(
    segments,
    vouchers.map(({ tensor }) => place(tensor)),
  )
  const changed = vouchers.find(({ tensor }, i) => digests[i] !== tensors.digests![tensor])
  if (changed) {
    const tensor = tensors.names[changed.tensor]!
    const text = `tensor ${JSON.stringify(tensor)} has changed since rank ${rank} registered it: register the checkpoint again`
    throw new CkptError('DIGEST_MISMATCH', text, { fields: { tensor, rank } })
  }
  const rows: Float64Array[] = []
  let outputs = 0
  for (const { tensor, regions } of vouchers) {
    const { memory, offset } = place(tensor)
    for (const region of regions) rows.push(sourceSums(region, outputs++, memory, offset))
  }
  return host.sums(segments, concatenate(rows), outputs)
}

function concatenate(rows: readonly Float64Array[]): Float64Array {
  const all = new Float64Array(rows.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const row of rows) {
    all.set(row, at)
    at += row.length
  }
  if (all.length % SUM_COLUMNS !== 0) throw new RangeError('rows of different widths')
  return all
}

/** Exchanges every rank's sums: of its worker's routes, and of the regions that it vouches for. */
async function exchangeSums(
  { rendezvous, epoch, wait, ranks }: CheckInputs,
  plan: VerifyPlan,
  readings: readonly Reading[],
  own: BigUint64Array,
  vouched: BigUint64Array,
): Promise<{ own: BigUint64Array[]; vouched: Map<number, BigUint64Array> }> {
  const payload = Buffer.concat([asBytes(own), asBytes(vouched)])
  const blobs = await rendezvous.allGatherBlobs('verify/sums', { digest: hash(payload), payload }, { epoch, ...wait })
  const result: { own: BigUint64Array[]; vouched: Map<number, BigUint64Array> } = { own: [], vouched: new Map() }
  ranks.forEach((rank, i) => {
    const reading = readings.find((one) => one.rank === rank)
    const routes = reading?.tensors.length ?? 0
    const regions = (plan.vouchers.get(rank) ?? []).reduce((sum, one) => sum + one.regions.length, 0)
    const bytes = blobs[i]!.payload
    if (bytes.byteLength !== (routes + regions) * 8) {
      const text = `rank ${rank} sent ${bytes.byteLength / 8} sums, not ${routes + regions}`
      throw new CkptError('RENDEZVOUS_PROTOCOL', text, { fields: { rank, field: 'sums' } })
    }
    // Copied, because bytes from the wire need not be aligned.
    const sums = new BigUint64Array(Uint8Array.from(bytes).buffer)
    if (reading) result.own.push(sums.subarray(0, routes))
    result.vouched.set(rank, sums.subarray(routes))
  })
  return result
}

function asBytes(values: BigUint64Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

function hash(payload: Uint8Array): string {
  return createHash('sha256').update(payload).digest('hex').slice(0, 32)
}
