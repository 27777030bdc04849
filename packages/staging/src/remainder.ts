import { createHash } from 'node:crypto'
import {
  tensorAt,
  tensorTable,
  type Exchange,
  type FailedAttempt,
  type Manifest,
  type RankMetas,
  type TensorTable,
} from '@ckpt/contract'

/**
 * Returns the manifest of the remaining tensors after a failed attempt. The ranks exchange which tensors their workers compared
 * and loaded then, and tensors that all of them have are left out. A worker counts only if it still has the parameters of that
 * attempt (`state`: its name for them now).
 */
export async function remainder(
  gather: Exchange,
  manifest: Manifest,
  failed: FailedAttempt,
  state: string | undefined,
): Promise<Manifest> {
  const valid = state !== undefined && state === failed.workerState
  const own = loadedRows(manifest, valid ? failed.loaded : undefined)
  const all = await gather('update/remainder', own)
  const everywhere = own.slice()
  for (const rows of all) for (let i = 0; i < everywhere.length; i++) everywhere[i]! &= rows[i] ?? 0
  return without(manifest, everywhere)
}

/** Returns one bit per tensor of the manifest, rank after rank: set if its name is among `loaded`. */
function loadedRows(manifest: Manifest, loaded: ReadonlySet<string> | undefined): Uint8Array {
  const count = manifest.ranks.reduce((sum, { tensors }) => sum + tensors.count, 0)
  const bits = new Uint8Array(Math.ceil(count / 8))
  if (loaded === undefined || loaded.size === 0) return bits
  let row = 0
  for (const { tensors } of manifest.ranks) {
    for (let i = 0; i < tensors.count; i++, row++) {
      if (loaded.has(tensors.names.at(i))) bits[row >> 3]! |= 1 << (row & 7)
    }
  }
  return bits
}

/**
 * Returns the manifest without the tensors whose bits are set; if none would remain, one of them stays, so that there is
 * something to plan.
 */
export function without(manifest: Manifest, bits: Uint8Array): Manifest {
  if (bits.every((byte) => byte === 0)) return manifest
  let row = 0
  let kept = 0
  const keep: number[][] = manifest.ranks.map(({ tensors: table }) => {
    const rows: number[] = []
    for (let i = 0; i < table.count; i++, row++) {
      if ((bits[row >> 3]! & (1 << (row & 7))) === 0) rows.push(i)
    }
    kept += rows.length
    return rows
  })
  if (kept === 0) {
    const first = manifest.ranks.findIndex((rank) => rank.tensors.count > 0)
    const table = manifest.ranks[first]!.tensors
    // Other ranks may hold the same tensor: its copies must be in the plan together.
    const name = table.names.at(0)
    manifest.ranks.forEach(({ tensors: others }, at) => {
      for (let i = 0; i < others.count; i++) {
        if (others.names.at(i) === name) keep[at]!.push(i)
      }
    })
  }
  const digest = createHash('sha256').update(manifest.digest).update(bits).digest('hex').slice(0, 32)
  const ranks = manifest.ranks.map((metas, at): RankMetas => ({ ...metas, tensors: rowsOf(metas.tensors, keep[at]!) }))
  return { ...manifest, digest, ranks }
}

function rowsOf(table: TensorTable, rows: readonly number[]): TensorTable {
  if (rows.length === table.count) return table
  const { digests } = table
  return tensorTable(
    rows.map((row) => tensorAt(table, row)),
    digests && BigUint64Array.from(rows, (row) => digests[row]!),
  )
}
