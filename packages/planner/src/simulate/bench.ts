import { topology, type Rates } from './rates.ts'
import type { Simulation } from './result.ts'
import { simulate } from './simulate.ts'
import type { Workload } from './workload.ts'

/** Data of a bench run for the simulator: the update, and the measurement to compare with. Times in milliseconds. */
export interface MeasuredRun {
  readonly model: string
  readonly backend: 'host' | 'cuda'
  /** On GPUs: `released` if ring and communicator are created again in every update. */
  readonly variant?: string
  readonly strategy: string
  readonly ranks: number
  readonly bytes: number
  readonly tensors: number
  readonly ringBytes: number
  readonly bucketBytes: number
  readonly updateMs: {
    readonly median: number
    readonly min: number
    readonly max: number
    readonly samples: readonly number[]
  }
  /** On the host device: calibration of its processors right before and right after each sample. */
  readonly readings?: readonly (readonly [before: ProcessorReading, after: ProcessorReading])[]
}

/**
 * Time that processors need for the parts of an update if they do everything, calibrated with updates of a different model and
 * size. Rates are those of one processor while all are busy, in bytes per second.
 */
export interface ProcessorReading {
  readonly processors: number
  /** Rate of bytes from one memory to another in a pipeline, including their share of its messages. */
  readonly copyRate: number
  /** Rate of bytes that the engine keeps, as it slices this model's tensors at this number of ranks. */
  readonly reloadRate: number
  /** Rate of bytes through a TCP connection on this machine, both ends. */
  readonly tcpRate?: number
  /** Time before and after the pipeline of an update over the same number of ranks. */
  readonly updateSeconds: number
}

/** Data that a bench has about its machine's parts. */
export interface MeasuredMachine {
  readonly gpus?: { readonly names: readonly string[]; readonly h2dEachBytesPerSecond: readonly number[] }
}

/**
 * Prediction of the simulator for a measured run. If the machine was calibrated for every sample, each has its own prediction.
 */
export interface Prediction {
  /** Median of the predictions. */
  readonly totalMs: number
  /** (predicted - measured) / measured: the median over the samples, and for each. */
  readonly error: number
  readonly errors: readonly number[]
  readonly bottleneck: string
}

/**
 * Predicts a measured run from the rates of the machine it was measured on; no measurement of the run itself is used.
 *
 * @param workload The run's checkpoint over the same number of ranks, each the only holder of its part.
 * @returns the reason, as text, if there is no prediction.
 */
export function predict(
  run: MeasuredRun,
  machine: MeasuredMachine,
  workload: (run: MeasuredRun) => Workload,
): Prediction | string {
  const rates = ratesBeside(run, machine)
  if (rates.length === 0) return 'rates were not measured apart from the updates (bench --validate does)'
  let work: Workload
  try {
    work = workload(run)
  } catch (error) {
    // A checkpoint of the user's own: its tensors are not known here.
    return error instanceof Error ? error.message : String(error)
  }
  const simulations = rates.map((one) =>
    simulate({
      workload: work,
      rates: one,
      strategy: run.strategy as Simulation['strategy'],
      tpSize: run.ranks,
      ...(run.ringBytes > 0 && { ringBytes: run.ringBytes, bucketBytes: run.bucketBytes }),
    })!,
  )
  const errors = run.updateMs.samples.map((ms, i) => simulations[simulations.length === 1 ? 0 : i]!.totalMs / ms - 1)
  return {
    totalMs: median(simulations.map(({ totalMs }) => totalMs)),
    error: median(errors),
    errors,
    bottleneck: simulations[0]!.bottleneck,
  }
}

/**
 * Returns the rates for each sample of a run; those of GPUs apply to all of them. There the host links are those measured in
 * the same run, with plain copies, and the rest is the value of {@link topology} for such GPUs.
 */
export function ratesBeside(run: MeasuredRun, machine: MeasuredMachine): Rates[] {
  const type = /H\d+/i.exec(machine.gpus?.names[0] ?? '')?.[0].toLowerCase() ?? 'h200'
  const base = topology(`${type}-8x400g`)
  if (run.backend === 'host') return (run.readings ?? []).map((pair) => onProcessors(run.ranks, pair, base))
  const each = machine.gpus?.h2dEachBytesPerSecond
  if (each === undefined) return []
  const h2dRate = Math.min(...each)
  return [
    {
      ...base,
      name: 'measured',
      source: 'host links as measured in the same run, all else as of the same kind of GPU in earlier ones',
      gpusPerHost: run.ranks,
      h2dRate,
      gatherRate: base.gatherRate * (h2dRate / base.h2dRate),
      hostMemoryRate: Infinity,
      updateSeconds: base.updateSeconds + (run.variant === 'released' ? base.communicatorSeconds : 0),
    },
  ]
}

function onProcessors(ranks: number, readings: readonly [ProcessorReading, ProcessorReading], base: Rates): Rates {
  const { processors } = readings[0]
  // Seconds per byte add up, rates do not.
  const rate = (of: (reading: ProcessorReading) => number) => 2 / (1 / of(readings[0]) + 1 / of(readings[1]))
  const copyRate = rate((reading) => reading.copyRate)
  const control = (readings[0].updateSeconds + readings[1].updateSeconds) / 2
  return {
    ...base,
    name: 'measured',
    source: 'small updates of another model, right before and after',
    gpusPerHost: ranks,
    processors,
    h2dRate: copyRate,
    peerRate: copyRate,
    nicRate: rate((reading) => reading.tcpRate ?? reading.copyRate),
    copyRate: rate((reading) => reading.reloadRate),
    tensorSeconds: 0,
    bucketSeconds: 0, // included in the rates: buckets are of the same size
    updateSeconds: control / Math.max(1, ranks / processors), // measured over the same number of ranks, so it includes their turns
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length / 2
  return sorted.length % 2 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
