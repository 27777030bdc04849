import type { Assignment } from './receivers.ts'

/** Parameters of the model of pulls. */
export interface PullModel {
  /** Rate of every NIC, in each direction, in bytes per second. */
  readonly nicBytesPerSecond: number
  /** Number of buckets that a receiver has requested and not received. */
  readonly window: number
}

/** Duration of pulling according to the model, and a lower bound for any order of pulls; both in seconds. */
export interface ModelledPull {
  readonly seconds: number
  /** The busiest NIC's bytes divided by its rate, as if every byte could move at any time. */
  readonly boundSeconds: number
}

/**
 * Models pulls of all receivers at once: each keeps `window` buckets in flight, in plan order. The more crowded of its two NICs
 * limits a pull; a NIC shares its rate equally among its pulls.
 */
export function modelPull(
  { receiver, sourceNic, receiverNic, nics }: Assignment,
  bytes: Float64Array,
  { nicBytesPerSecond, window }: PullModel,
): ModelledPull {
  const waiting = new Map<number, number[]>()
  for (let bucket = receiver.length - 1; bucket >= 0; bucket--) {
    const list = waiting.get(receiver[bucket]!)
    if (list === undefined) waiting.set(receiver[bucket]!, [bucket])
    else list.push(bucket)
  }
  const sending = new Uint32Array(nics.length)
  const receiving = new Uint32Array(nics.length)
  const active = new Map<number, number>()
  const start = (rank: number): void => {
    const bucket = waiting.get(rank)!.pop()
    if (bucket === undefined) return
    active.set(bucket, bytes[bucket]!)
    sending[sourceNic[bucket]!]!++
    receiving[receiverNic[bucket]!]!++
  }
  for (const rank of waiting.keys()) for (let i = 0; i < window; i++) start(rank)
  let seconds = 0
  while (active.size > 0) {
    const rate = (bucket: number): number =>
      nicBytesPerSecond / Math.max(sending[sourceNic[bucket]!]!, receiving[receiverNic[bucket]!]!)
    let step = Infinity
    for (const [bucket, left] of active) step = Math.min(step, left / rate(bucket))
    seconds += step
    const ended: number[] = []
    for (const [bucket, left] of active) {
      const rest = left - step * rate(bucket)
      if (rest <= 1e-6 * bytes[bucket]!) ended.push(bucket)
      else active.set(bucket, rest)
    }
    for (const bucket of ended) {
      active.delete(bucket)
      sending[sourceNic[bucket]!]!--
      receiving[receiverNic[bucket]!]!--
    }
    for (const bucket of ended) start(receiver[bucket]!)
  }
  const sent = new Float64Array(nics.length)
  const received = new Float64Array(nics.length)
  receiver.forEach((_, bucket) => {
    sent[sourceNic[bucket]!]! += bytes[bucket]!
    received[receiverNic[bucket]!]! += bytes[bucket]!
  })
  const busiest = Math.max(0, ...sent, ...received)
  return { seconds, boundSeconds: busiest / nicBytesPerSecond }
}
