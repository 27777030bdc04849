import type { InjectedFault } from '@ckpt/testing'
import type { Fault, FaultContext } from './fault.ts'

/** Returns the message of the rank before which a worker is at a point. */
export function messageAt({ point, strategy, random }: Pick<FaultContext, 'point' | 'strategy' | 'random'>): {
  readonly at: string
  readonly from: number
} {
  if (point !== 'reload') return { at: point, from: 0 }
  return strategy === 'direct' ? { at: 'direct', from: 0 } : { at: 'bucket', from: random.between(0, 3) }
}

async function arm(context: FaultContext, fault: Omit<InjectedFault, 'at'>): Promise<void> {
  await context.cluster.engines[context.victim]!.fault({ ...messageAt(context), ...fault })
}

/** Faults in an engine worker's handling of messages. */
export const WORKER_FAULTS: readonly Fault[] = [
  {
    name: 'worker raises',
    points: ['attach', 'reload', 'release', 'commit'],
    victims: 'any',
    expect: 'fails',
    codes: ['ENGINE_WORKER_ERROR'],
    within: 'window',
    lost: 'nobody',
    arm: (context) => arm(context, { action: 'raise' }),
  },
  {
    name: 'worker slow',
    points: ['attach', 'reload', 'release', 'commit'],
    victims: 'any',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    arm: (context) =>
      arm(context, {
        action: 'slow',
        ms: context.point === 'reload' ? context.random.between(5, 25) : context.random.between(50, 500),
      }),
  },
]
