import { launchedBy } from '@ckpt/core'
import { UsageError } from '../usage.ts'

/** Place of a rank among all ranks, for addresses that differ between them. */
export interface Place {
  readonly rank: number
  readonly worldSize: number
  readonly localRank: number
  readonly localWorldSize: number
  readonly node: number
}

const PLACEHOLDERS = ['rank', 'local_rank', 'node', 'instance'] as const
type Placeholder = (typeof PLACEHOLDERS)[number]

/** Returns the place of this process, or of the first of `nproc` ranks that it starts. */
export function ownPlace(nproc?: number): Place {
  const launched = launchedBy(process.env)
  const own = launched ?? { rank: 0, worldSize: 1, localRank: 0, localWorldSize: 1, node: 0 }
  if (nproc === undefined || launched?.launcher === 'RANK' || own.localWorldSize > 1) return own
  return { rank: own.rank * nproc, worldSize: own.worldSize * nproc, localRank: 0, localWorldSize: nproc, node: own.node }
}

/** Returns the place of another rank, if all machines have as many ranks as this one. */
export function placeOfRank(rank: number, own: Place): Place {
  if (rank === own.rank) return own
  const { worldSize, localWorldSize } = own
  return { rank, worldSize, localWorldSize, localRank: rank % localWorldSize, node: Math.floor(rank / localWorldSize) }
}

/** Returns the placeholders in a text. @throws UsageError naming the option and an unknown one. */
export function placeholdersIn(text: string, option: string): Placeholder[] {
  return [...text.matchAll(/\{([^{}]*)\}/g)].map(([shown, name]) => {
    const known = PLACEHOLDERS.find((one) => one === name)
    if (known !== undefined) return known
    const all = PLACEHOLDERS.map((one) => `{${one}}`).join(', ')
    throw new UsageError(`${option} ${text}: unknown placeholder ${shown}; expected ${all}`)
  })
}

/** Replaces placeholders. `parallelSize`: ranks of one engine, for `{instance}`. */
export function fillIn(text: string, { rank, localRank, node }: Place, parallelSize = 1): string {
  const values = { rank, local_rank: localRank, node, instance: Math.floor(rank / parallelSize) }
  return text.replace(/\{(\w+)\}/g, (shown, name: string) => (name in values ? String(values[name as Placeholder]) : shown))
}
