import { topology, type Rates } from './rates.ts'
import type { Simulation } from './result.ts'
import { simulate } from './simulate.ts'
import type { Workload } from './workload.ts'

/** What of a bench run the simulator takes rates from, and what it is held against. Times in milliseconds, rates in bytes per second. */
export interface MeasuredRun {
  readonly model: string
  readonly backend: 'host' | 'cuda'
  readonly variant?: string
  readonly strategy: string
  readonly ranks: number
  readonly bytes: number
  readonly tensors: number
  readonly ringBytes: number
  readonly bucketBytes: number
  readonly updateMs: { readonly median: number; readonly min: number; readonly max: number }
  readonly stages: { readonly h2dMs: number; readonly broadcastMs: number; readonly reloadMs: number }
  readonly steps?: {
    readonly beginMs: number
    readonly planMs: number
    readonly attachMs: number
    readonly commitMs: number
  }
  readonly verifiedBytes: number
  /** On the host device: copies of all processors, as they went beside this run's samples. */
  readonly limit?: { readonly bytesPerSecond: number }
}

/** What a bench measured of the machine itself, in updates of other sizes and in plain copies: the rates of its processors. */
export interface ProcessorCalibration {
  readonly processors: number
  /** Copies of whole chunks, one processor while all are busy. */
  readonly copyRate: number
  /** The engine's slices of this model, by model. */
  readonly reloadRate: Readonly<Record<string, number>>
  /** Processor time of a bucket, a rank. */
  readonly bucketSeconds: number
  /** Processor time of an update of next to nothing, a rank. */
  readonly updateSeconds: number
  /** Processor time of a byte of ring, a rank: workers map it anew for each update. */
  readonly ringByteSeconds: number
}

/** What a bench knows of its machine's parts. */
export interface MeasuredMachine {
  readonly gpus?: { readonly names: readonly string[]; readonly h2dEachBytesPerSecond: readonly number[] }
  readonly processors?: ProcessorCalibration
}

/**
 * What the simulator says of a measured run, from the rates of the machine it was measured on.
 *
 * @param workload The run's checkpoint over so many ranks, each the only holder of what it holds.
 * @returns Why there is no answer, in words, where there is none.
 */
export function predict(
  run: MeasuredRun,
  machine: MeasuredMachine,
  workload: (run: MeasuredRun) => Workload,
): Simulation | string {
  if (run.strategy === 'p2p' && run.backend === 'host') return 'TCP between ranks on one machine is not modelled'
  const type = /H\d+/i.exec(machine.gpus?.names[0] ?? '')?.[0].toLowerCase() ?? 'h200'
  const rates = measuredRates(run, machine, topology(`${type}-8x400g`))
  if (rates === undefined) return 'rates were not measured apart from the updates (bench --validate does)'
  let work: Workload
  try {
    work = workload(run)
  } catch (error) {
    // A checkpoint of the user's own: its tensors are not known here.
    return error instanceof Error ? error.message : String(error)
  }
  return simulate({
    workload: work,
    rates,
    strategy: run.strategy as Simulation['strategy'],
    tpSize: run.ranks,
    ringBytes: run.ringBytes,
    bucketBytes: run.bucketBytes,
  })!
}

/**
 * The rates of the machine on which `run` was measured. Links are those measured apart from any update; of the run itself only what
 * is not the update's own time enters: on GPUs the worker's time for loading and the steps outside the pipeline.
 *
 * @returns undefined where the file does not have what it takes.
 */
export function measuredRates(run: MeasuredRun, machine: MeasuredMachine, base: Rates): Rates | undefined {
  if (run.backend === 'host') return onProcessors(run, machine.processors, base)
  const each = machine.gpus?.h2dEachBytesPerSecond
  if (each === undefined || run.steps === undefined) return undefined
  const { beginMs, planMs, attachMs, commitMs } = run.steps
  const kept = run.verifiedBytes / run.ranks
  return {
    ...base,
    name: 'measured',
    source: 'host links and loading as measured in the same run; NVLink as measured on the same kind of machine',
    gpusPerHost: run.ranks,
    h2dRate: Math.min(...each),
    hostMemoryRate: Infinity,
    tensorSeconds: Math.max(0, run.stages.reloadMs / 1000 - kept / base.copyRate) / run.tensors,
    updateSeconds: (beginMs + planMs + attachMs + commitMs) / 1000,
  }
}

function onProcessors(run: MeasuredRun, measured: ProcessorCalibration | undefined, base: Rates): Rates | undefined {
  const reloadRate = measured?.reloadRate[`${run.model}/${run.ranks}`]
  if (measured === undefined || reloadRate === undefined) return undefined
  // A machine that others use too changes its speed: everything was slower where copies beside the samples were.
  const speed = run.limit === undefined ? 1 : run.limit.bytesPerSecond / (measured.copyRate * measured.processors)
  return {
    ...base,
    name: 'measured',
    source: 'copies and small updates measured in the same run',
    gpusPerHost: run.ranks,
    processors: measured.processors,
    h2dRate: measured.copyRate * speed,
    peerRate: measured.copyRate * speed,
    copyRate: reloadRate * speed,
    tensorSeconds: 0,
    bucketSeconds: measured.bucketSeconds / speed,
    updateSeconds: (measured.updateSeconds + run.ringBytes * measured.ringByteSeconds) / speed,
  }
}
