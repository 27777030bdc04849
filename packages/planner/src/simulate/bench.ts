import { topology, type Rates } from './rates.ts'
import type { Simulation } from './result.ts'
import { simulate } from './simulate.ts'
import type { Workload } from './workload.ts'

/** What of a bench run the simulator needs to know of the update, and what it is held against. Times in milliseconds. */
export interface MeasuredRun {
  readonly model: string
  readonly backend: 'host' | 'cuda'
  /** On GPUs: `released` where ring and communicator are made again in every update. */
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
  /** On the host device: what its processors did right before and right after each sample. */
  readonly readings?: readonly (readonly [before: ProcessorReading, after: ProcessorReading])[]
}

/**
 * What processors that do everything need for the parts of an update, read once, in updates of another model and another size. Rates are
 * those of one processor while all are busy, in bytes per second.
 */
export interface ProcessorReading {
  readonly processors: number
  /** Bytes from one memory to another as a pipeline brings them, with their share of its messages. */
  readonly copyRate: number
  /** Bytes that the engine keeps, as it slices this model's tensors at this number of ranks. */
  readonly reloadRate: number
  /** Bytes through a TCP connection on this machine, both ends. */
  readonly tcpRate?: number
  /** What lies before and after the pipeline of an update over as many ranks. */
  readonly updateSeconds: number
}

/** What a bench knows of its machine's parts. */
export interface MeasuredMachine {
  readonly gpus?: { readonly names: readonly string[]; readonly h2dEachBytesPerSecond: readonly number[] }
}

/** What the simulator says of a measured run. Where the machine was read beside every sample, each has its own prediction. */
export interface Prediction {
  /** The median of the predictions. */
  readonly totalMs: number
  /** (predicted - measured) / measured: the median over the samples, and of each. */
  readonly error: number
  readonly errors: readonly number[]
  readonly bottleneck: string
}

/**
 * What the simulator says of a measured run, from the rates of the machine it was measured on; nothing that was measured of the run
 * itself enters.
 *
 * @param workload The run's checkpoint over so many ranks, each the only holder of what it holds.
 * @returns Why there is no answer, in words, where there is none.
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
 * The rates beside each sample of a run; those of GPUs hold for all of them. There the host links are those measured in the same run,
 * with plain copies, and the rest is what {@link topology} has of such GPUs.
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
  // Seconds a byte add up, rates do not.
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
    bucketSeconds: 0, // in the rates: buckets are of the same size
    updateSeconds: control / Math.max(1, ranks / processors), // read over as many ranks, so their turns are in it
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length / 2
  return sorted.length % 2 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
