/**
 * Many members in one process: joins as the ranks `[from, to)` of `{ address, token, worldSize, from, to }`, its argument. For
 * each `{ key, among }` of its parent all of them gather their ranks under the key, among the first `among`, and it answers
 * with the number of values that each got.
 */
import type { Rendezvous } from '@ckpt/contract'

import { joinRendezvous } from '../index.ts'

interface Members {
  readonly address: string
  readonly token: string
  readonly worldSize: number
  readonly from: number
  readonly to: number
}

const { from, to, ...options } = JSON.parse(process.argv[2]!) as Members
const started = performance.now()
const ranks: Rendezvous[] = await Promise.all(
  Array.from({ length: to - from }, (_, i) =>
    joinRendezvous({ ...options, rank: from + i, standalone: true, timeoutMs: 60_000 }),
  ),
)

process.on('message', ({ key, among }: { key: string; among: number }) => {
  const all = Array.from({ length: among }, (_, rank) => rank)
  const gathers = ranks.map((rank) => rank.allGather(key, rank.rank, { ranks: all, timeoutMs: 60_000 }))
  Promise.all(gathers).then(
    (values) => process.send!({ right: values.filter((one) => one.every((value, at) => value === at)).length }),
    (error: unknown) => process.send!({ error: String(error) }),
  )
})
process.on('disconnect', () => process.exit(0))
process.send!({ joined: ranks.length, ms: Math.round(performance.now() - started) })
