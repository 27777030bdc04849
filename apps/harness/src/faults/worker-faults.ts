import type { InjectedFault } from '../engine/injected-faults.ts'
import type { Fault, FaultContext, Point } from './fault.ts'

/** The message of the rank before which a worker is at a point. */
export function messageAt(point: Point): string {
  return point === 'reload' ? 'bucket' : point
}

async function arm({ cluster, victim, point, random }: FaultContext, fault: Omit<InjectedFault, 'at'>): Promise<undefined> {
  const from = point === 'reload' ? random.between(0, 3) : 0
  await cluster.engines[victim]!.fault({ at: messageAt(point), from, ...fault })
}

/** Faults of what an engine worker does with the messages it gets. */
export const WORKER_FAULTS: readonly Fault[] = [
  {
    name: 'worker raises',
    points: ['attach', 'reload', 'release', 'commit'],
    victims: 'any',
    expect: 'fails',
    codes: ['ENGINE_WORKER_ERROR'],
    within: 'window',
    lost: 'nobody',
    prepare: (context) => arm(context, { action: 'raise' }),
  },
  {
    name: 'worker slow',
    points: ['attach', 'reload', 'release', 'commit'],
    victims: 'any',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    prepare: (context) =>
      arm(context, {
        action: 'slow',
        ms: context.point === 'reload' ? context.random.between(5, 25) : context.random.between(50, 500),
      }),
  },
]
