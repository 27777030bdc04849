import { Random } from '@ckpt/testing'
import type { Fault, Point } from './fault.ts'
import { FaultCluster, type FaultClusterOptions, type StrategyName } from './fault-cluster.ts'
import { HOST_FAULTS } from './host-faults.ts'
import { LINK_FAULTS, PULL_FAULTS } from './link-faults.ts'
import { MEMORY_FAULTS } from './memory-faults.ts'
import { PROCESS_FAULTS } from './process-faults.ts'
import { REGISTER_FAULTS, type RegisterFault } from './register-faults.ts'
import { canMountDisks, outsideBecause } from './sandbox.ts'
import { registerTrial, updateTrial, type TrialResult } from './trial.ts'
import { WORKER_FAULTS } from './worker-faults.ts'

/** Selected faults and points. */
export interface Selection {
  /** Only faults whose name contains one of these. */
  readonly only?: readonly string[]
  readonly point?: Point
  readonly strategy?: StrategyName
  /** Only faults of hosts and their links, which need hosts. */
  readonly onHosts?: boolean
}

export interface CampaignOptions extends FaultClusterOptions, Selection {
  readonly trials: number
  readonly seed: number
  readonly onResult?: (result: TrialResult) => void
}

export interface Campaign {
  readonly results: readonly TrialResult[]
  /** Faults that cannot run here, with the reason. */
  readonly missing: readonly { readonly fault: string; readonly reason: string }[]
}

export type Case =
  | { readonly kind: 'update'; readonly fault: Fault; readonly point: Point }
  | { readonly kind: 'register'; readonly fault: RegisterFault }

/** Returns the selected faults at every possible point on this machine, and the faults that cannot run. */
export function catalogue({ only = [''], point, strategy, onHosts = false }: Selection): {
  cases: Case[]
  missing: Campaign['missing']
} {
  const outside = outsideBecause()
  const missing: { fault: string; reason: string }[] = []
  const cases: Case[] = []
  const wanted = (name: string) => only.some((text) => name.includes(text))
  const common = onHosts ? HOST_FAULTS : [...PROCESS_FAULTS, ...LINK_FAULTS, ...PULL_FAULTS, ...WORKER_FAULTS]
  for (const fault of [...common, ...(onHosts ? [] : MEMORY_FAULTS)]) {
    if (!wanted(fault.name) || (strategy && fault.strategies?.includes(strategy) === false)) continue
    const points = fault.points.filter((one) => point === undefined || one === point)
    if (outside !== undefined && !common.includes(fault)) missing.push({ fault: fault.name, reason: outside })
    else cases.push(...points.map((one) => ({ kind: 'update' as const, fault, point: one })))
  }
  for (const fault of onHosts ? [] : REGISTER_FAULTS) {
    if (!wanted(fault.name) || (point !== undefined && point !== 'register')) continue
    const reason =
      fault.missing?.() ?? (fault.name === 'disk read error' && !canMountDisks() ? 'file systems cannot be mounted' : undefined)
    if (reason === undefined) cases.push({ kind: 'register', fault })
    else missing.push({ fault: fault.name, reason })
  }
  return { cases, missing }
}

/**
 * Runs trials one after another on one cluster: every case once in a random order, then again in a new order, and so on. The
 * same seed gives the same faults, points, victims and delays.
 */
export async function runCampaign(options: CampaignOptions): Promise<Campaign> {
  const random = new Random(options.seed)
  const { cases, missing } = catalogue({ ...options, onHosts: options.hosts !== undefined })
  const results: TrialResult[] = []
  let cluster = await FaultCluster.start(options)
  const alone = outsideBecause() === undefined
  // All its waits have deadlines: several waits in a row, and processes to start.
  const trialLimit = 8 * (options.timeoutMs + options.windowMs) + 20_000
  let queue: Case[] = []
  try {
    for (let number = 1; number <= options.trials && cases.length > 0; number++) {
      if (queue.length === 0) queue = random.shuffle(cases)
      const next = queue.pop()!
      const { strategy } = options
      const setting = { cluster, random, number, alone, ...(strategy && { strategies: [strategy] }) }
      const trial = next.kind === 'update' ? updateTrial(setting, next.fault, next.point) : registerTrial(setting, next.fault)
      const result = await within(trial, trialLimit).catch((error: unknown) => failedTrial(number, next, error))
      results.push(result)
      options.onResult?.(result)
      // Leftovers of a broken trial must not count for the next one.
      if (result.breaks.length > 0) {
        await cluster.close()
        cluster = await FaultCluster.start(options)
      }
    }
  } finally {
    await cluster.close()
  }
  return { results, missing }
}

function failedTrial(trial: number, failed: Case, error: unknown): TrialResult {
  const what = error instanceof Error ? error.message : String(error)
  const point = failed.kind === 'update' ? failed.point : 'register'
  const breaks = [`the trial itself failed: ${what}`]
  return { trial, fault: failed.fault.name, point, victim: -1, state: 'mixed', codes: [], totalMs: 0, breaks, errors: [] }
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it did not end within ${ms} ms`)), ms)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
