import { planBroadcast, planP2p } from '../plan.ts'
import { simulateDirect } from './direct.ts'
import { simulatePeer } from './peer.ts'
import type { Rates } from './rates.ts'
import type { Simulation } from './result.ts'
import { nicOf, simulateStaged } from './staged.ts'
import type { Workload } from './workload.ts'

export interface SimulateOptions {
  readonly workload: Workload
  readonly rates: Rates
  readonly strategy: Simulation['strategy']
  readonly system?: Simulation['system']
  /** Ranks that receive in a p2p update; the manifest's first `tpSize` by default. */
  readonly receivers?: readonly number[]
  readonly tpSize: number
  /** Size of the ring; by default 90 % of the GPU's free memory. */
  readonly ringBytes?: number
  /** Preferred bucket size; for checkpoint-engine the reported one. */
  readonly bucketBytes?: number
}

/** Fraction of free device memory that the ring may use. */
const RING_SHARE = 0.9

/**
 * Simulates an update on a cluster with these rates. Plans are made by {@link planBroadcast} and {@link planP2p} as in a real
 * update. Undefined for the direct strategy of checkpoint-engine, which does not exist.
 *
 * @throws CkptError as for the planning functions.
 */
export function simulate(options: SimulateOptions): Simulation | undefined {
  const { workload, rates, strategy, system = 'ckpt', tpSize, bucketBytes } = options
  const { manifest } = workload
  const receivers = options.receivers ?? manifest.ranks.slice(0, tpSize).map(({ rank }) => rank)
  if (system === 'checkpoint-engine') {
    if (strategy === 'direct') return undefined
    return simulatePeer(workload, rates, {
      ...(strategy === 'p2p' && { ranks: receivers }),
      ...(bucketBytes !== undefined && { bucketBytes }),
    })
  }
  if (strategy === 'direct') return simulateDirect(workload, rates)
  const sizes = {
    ringBytes: options.ringBytes ?? Math.floor(rates.freeDeviceBytes * RING_SHARE),
    maxBucketBytes: rates.bucketBytes,
    chunkBytes: rates.chunkBytes,
    ...(bucketBytes !== undefined && { preferredBucketBytes: bucketBytes }),
  }
  if (strategy === 'broadcast') return simulateStaged(planBroadcast(manifest, sizes), workload, rates)
  const nics = new Map(manifest.ranks.map(({ rank }) => [rank, [`nic-${nicOf(rank, rates)}`]]))
  return simulateStaged(planP2p(manifest, { ...sizes, ranks: receivers, nics }), workload, rates)
}
