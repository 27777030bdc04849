import { cpus } from 'node:os'
import { STRIDED_COPY_COLUMNS, type Host } from '@ckpt/contract'
import type { UpdateReport } from '@ckpt/core'
import { Cluster, generateCheckpoint } from '@ckpt/harness'
import { checkpointTensors, engineLayout, model as findModel, type CheckpointTensor, type Model } from '@ckpt/models'
import type { ProcessorCalibration } from '@ckpt/planner'
import { summarize } from '../statistics.ts'
import { copyCeiling } from './ceilings.ts'

const MIB = 2 ** 20
/** Ranks of the small updates; what they show is a rank's processor time, whatever the number of ranks. */
const RANKS = 2
const REPEAT = 5
const SMALL_REPEAT = 11
/** Bytes of a model's tensors that are sliced to measure how fast that goes. */
const SLICED_BYTES = 384 * MIB
const SMALL_BYTES = 16 * MIB
const RING_BYTES = 192 * MIB

/**
 * What this machine's processors need for the parts of an update, measured apart from the updates that are to be predicted: plain
 * copies, the engine's slices of each model's tensors, and updates of checkpoints so small that hardly anything is copied, in few
 * buckets, in many, and through a large ring.
 */
export async function calibrate(
  host: Host,
  models: readonly Pick<Model, 'id'>[],
  rankCounts: readonly number[],
  bytes: number,
  onStep?: (step: string) => void,
): Promise<ProcessorCalibration> {
  const processors = cpus().length
  onStep?.('copies')
  const copyRate = (await copyCeiling(host)) / processors
  const reloadRate: Record<string, number> = {}
  for (const { id } of models) {
    for (const ranks of rankCounts) {
      onStep?.(`slices of ${id} over ${ranks}`)
      reloadRate[`${id}/${ranks}`] = (await sliceRate(host, checkpointTensors(findModel(id), { bytes }), ranks)) / processors
    }
  }
  onStep?.('small updates')
  const few = await smallUpdate(host, SMALL_BYTES, SMALL_BYTES)
  const many = await smallUpdate(host, SMALL_BYTES, SMALL_BYTES / 64)
  const ring = await smallUpdate(host, RING_BYTES, SMALL_BYTES)
  const perRank = processors / RANKS
  const bucketSeconds = Math.max(0, ((many.seconds - few.seconds) / (many.buckets - few.buckets)) * perRank)
  // H2D and fetch of everything, and each worker's slices.
  const copied = (size: number) => (3 * size) / copyRate / processors
  const rest = (one: SmallUpdate) => (one.seconds - copied(one.bytes)) * perRank - one.buckets * bucketSeconds
  const ringByteSeconds = Math.max(0, (rest(ring) - rest(few)) / (ring.ringBytes - few.ringBytes))
  const updateSeconds = Math.max(0, rest(few) - few.ringBytes * ringByteSeconds)
  return { processors, copyRate, reloadRate, bucketSeconds, updateSeconds, ringByteSeconds }
}

interface SmallUpdate {
  readonly seconds: number
  readonly buckets: number
  readonly bytes: number
  readonly ringBytes: number
}

/** The median time of an update of next to nothing. */
async function smallUpdate(host: Host, bytes: number, bucketBytes: number): Promise<SmallUpdate> {
  using checkpoint = await generateCheckpoint(host, findModel('llama-3.1-8b'), bytes, 7n, 'small')
  await using cluster = await Cluster.start({
    ranks: RANKS,
    threads: Math.max(1, Math.floor(cpus().length / RANKS)),
    keepAlive: true,
    engine: { kind: 'typescript', checkpoint: checkpoint.directory },
  })
  await cluster.register('small', checkpoint.directory)
  const samples: number[] = []
  let report: UpdateReport | undefined
  for (let i = 0; i <= SMALL_REPEAT; i++) {
    const reports = await cluster.update('small', { verify: false, version: String(i), bucketBytes, ringBytes: RING_BYTES })
    report = reports[0]!
    // The first makes ring and collective.
    if (i > 0) samples.push(Math.max(...reports.map(({ totalMs }) => totalMs)))
  }
  const { buckets, ringBytes } = report!
  return { seconds: summarize(samples).median / 1000, buckets, bytes: report!.bytes, ringBytes }
}

/** Bytes per second at which all processors together take one worker's slices out of tensors that lie one after the other. */
async function sliceRate(host: Host, tensors: readonly CheckpointTensor[], tpSize: number): Promise<number> {
  const { placements } = engineLayout(tensors, 0, tpSize)
  const columns: number[] = []
  let source = 0
  let destination = 0
  let kept = 0
  for (const { name, bytes } of tensors) {
    if (source + bytes > SLICED_BYTES) continue
    const { sourceOffset, sourcePitch, rowBytes, rows, destinationPitch } = placements.get(name)!
    if (rowBytes === 0) continue
    columns.push(0, source + sourceOffset, sourcePitch, 1, destination, destinationPitch, rowBytes, rows)
    source += Math.ceil(bytes / 256) * 256
    destination += Math.ceil((rows * rowBytes) / 256) * 256
    kept += rows * rowBytes
  }
  if (columns.length % STRIDED_COPY_COLUMNS !== 0) throw new RangeError('columns')
  const ring = await host.allocate({ bytes: Math.max(source, 256), lock: false })
  const parameters = await host.allocate({ bytes: Math.max(destination, 256), lock: false })
  try {
    await host.fill(ring, { seed: 1n })
    await host.fill(parameters, { seed: 2n })
    const samples: number[] = []
    for (let i = 0; i < REPEAT; i++) {
      const { milliseconds } = await host.copy([ring, parameters], Float64Array.from(columns), { threads: cpus().length })
      samples.push(milliseconds)
    }
    return (kept / summarize(samples).median) * 1000
  } finally {
    ring.close()
    parameters.close()
  }
}
