import { checkpointTensors, keptBytes, model, sharedManifest, type ScaleOptions } from '@ckpt/models'
import { dealtWorkload, simulate, type Rates, type Simulation, type Workload } from '@ckpt/planner'

export const STRATEGIES = ['broadcast', 'p2p', 'direct'] as const
export const SYSTEMS = ['ckpt', 'checkpoint-engine'] as const

/** One model on one cluster. */
export interface Scenario {
  readonly model: string
  readonly gpus: number
  readonly tp: number
  readonly rates: Rates
}

/**
 * Returns the checkpoint's metadata divided among `gpus` ranks, and the parts that workers at a tensor parallelism of `tp`
 * keep.
 */
export function workloadOf({ model: id, gpus, tp }: Omit<Scenario, 'rates'>, scale: ScaleOptions = {}): Workload {
  const tensors = checkpointTensors(model(id), scale)
  return dealtWorkload(sharedManifest(id, tensors, gpus), keptBytes(tensors, tp))
}

/** Simulates each of `strategies` on each of `systems`, except for combinations that do not exist. */
export function simulateAll(
  scenario: Scenario,
  strategies: readonly Simulation['strategy'][] = STRATEGIES,
  systems: readonly Simulation['system'][] = SYSTEMS,
  bucketBytes: (system: Simulation['system'], strategy: Simulation['strategy']) => number | undefined = () => undefined,
): Simulation[] {
  const workload = workloadOf(scenario)
  return systems.flatMap((system) =>
    strategies.flatMap((strategy) => {
      const size = bucketBytes(system, strategy)
      const common = { workload, rates: scenario.rates, strategy, system, tpSize: scenario.tp }
      return simulate({ ...common, ...(size !== undefined && { bucketBytes: size }) }) ?? []
    }),
  )
}
