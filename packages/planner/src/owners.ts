import { CkptError, type Manifest, type TensorTable } from '@ckpt/contract'
import { type Replica, findReplicas } from './replicas.ts'

/** Contribution of one owner: rows of its table in segment order. */
export interface Share {
  /** Position in the manifest's ranks. */
  readonly position: number
  readonly rank: number
  readonly rows: Uint32Array
}

/**
 * Chooses the owner of each tensor: every tensor once, a rank that holds it and takes part. Tensors that several ranks hold are
 * assigned in runs (so that copies stay contiguous) such that the owners' bytes are as equal as their holders allow.
 *
 * @param members Ranks that may own tensors, ascending.
 * @param near Those of them that own what they hold, before all others.
 * @throws CkptError `INVALID_ARGUMENT` naming a tensor that no member holds, or whose copies differ.
 */
export function chooseOwners(manifest: Manifest, members: readonly number[], near: readonly number[] = members): Share[] {
  const replicas = findReplicas(manifest)
  const allowed = new Set(members)
  const skip = replicas.length === 0 ? undefined : assign(manifest, replicas, allowed, new Set(near))
  const shares: Share[] = []
  manifest.ranks.forEach(({ rank, tensors }, position) => {
    const skipped = skip?.[position]
    if (!allowed.has(rank)) {
      for (let row = 0; row < tensors.count; row++) {
        if (skipped?.[row] !== 1) throw unowned(tensors.names.at(row), rank)
      }
      return
    }
    const rows = skipped === undefined ? every(tensors.count) : remaining(skipped)
    if (rows.length > 0) shares.push({ position, rank, rows: inSegmentOrder(tensors, rows) })
  })
  return shares
}

function unowned(tensor: string, rank: number): CkptError {
  return new CkptError('INVALID_ARGUMENT', `tensor ${tensor} is only held by rank ${rank}, which does not take part`, {
    fields: { tensor, ranks: [rank], field: 'ranks' },
  })
}

/** Marks, for each rank, the rows that a different rank moves. */
function assign(
  manifest: Manifest,
  replicas: readonly Replica[],
  allowed: ReadonlySet<number>,
  near: ReadonlySet<number>,
): Uint8Array[] {
  const skip = manifest.ranks.map(({ tensors }) => new Uint8Array(tensors.count))
  const load = manifest.ranks.map(({ tensors }) => sum(tensors.bytes))
  for (const { holders, bytes } of replicas) for (const holder of holders) load[holder]! -= bytes
  const groups = groupByHolders(replicas).flatMap((group): Group[] => {
    const { holders } = group[0]!
    const close = holders.filter((holder) => near.has(manifest.ranks[holder]!.rank))
    const members = close.length > 0 ? close : holders.filter((holder) => allowed.has(manifest.ranks[holder]!.rank))
    const bytes = group.reduce((total, replica) => total + replica.bytes, 0)
    return members.length === 0 ? [] : [{ replicas: group, members, bytes, parts: members.map(() => 0) }]
  })
  divide(groups, load)
  // Deficit of each rank compared with its part so far.
  const owed = manifest.ranks.map(() => 0)
  for (const { replicas: group, members, bytes: shared, parts } of groups) {
    // The members' capacities are laid end to end, and so are the tensors: each goes to the member that contains its middle. At
    // its two borders a member gets half a tensor too much or too little each. The next group compensates for this: capacity is
    // what leaves the same deficit for all members, as far as possible.
    members.forEach((member, index) => (owed[member]! += parts[index]!))
    const received = members.map((member) => -owed[member]!)
    const room = level(received, shared).map((target, index) => target - received[index]!)
    let turn = 0
    let end = room[0]!
    let poured = 0
    for (const { holders, rows, bytes } of group) {
      while (turn < members.length - 1 && poured + bytes / 2 > end) end += room[++turn]!
      poured += bytes
      const owner = members[turn]!
      owed[owner]! -= bytes
      holders.forEach((holder, index) => {
        if (holder !== owner) skip[holder]![rows[index]!] = 1
      })
    }
  }
  return skip
}

/** Tensors with the same holders, and the bytes that each possible owner should move. */
interface Group {
  readonly replicas: readonly Replica[]
  readonly members: readonly number[]
  readonly bytes: number
  parts: number[]
}

/** Maximum number of sweeps over the groups; each brings the loads closer to the optimum, and a few are enough. */
const SWEEPS = 32
/** A sweep that moves less than this fraction of the bytes is the last. */
const SETTLED = 1e-3

/**
 * Sets the groups' parts such that the loads are as equal as their members allow: each group in turn levels its members, given
 * the loads of all others, until nothing changes (block coordinate descent on the sum of squares, which is convex).
 */
function divide(groups: readonly Group[], load: number[]): void {
  const total = groups.reduce((all, { bytes }) => all + bytes, 0)
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    let moved = 0
    for (const group of groups) {
      const { members, bytes, parts } = group
      const others = members.map((member, index) => load[member]! - parts[index]!)
      group.parts = level(others, bytes).map((target, index) => target - others[index]!)
      members.forEach((member, index) => {
        load[member] = others[index]! + group.parts[index]!
        moved += Math.abs(group.parts[index]! - parts[index]!)
      })
    }
    // A single group, the usual case, is level after one step.
    if (groups.length === 1 || (sweep > 0 && moved <= SETTLED * total)) return
  }
}

/** Groups replicas with the same holders; groups with the fewest holders (the least choice) come first; stable otherwise. */
function groupByHolders(replicas: readonly Replica[]): Replica[][] {
  const groups = new Map<string, Replica[]>()
  for (const replica of replicas) {
    const key = replica.holders.join()
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [replica])
    else group.push(replica)
  }
  return [...groups.values()].sort((a, b) => a[0]!.holders.length - b[0]!.holders.length)
}

/** Returns the loads after adding `extra` to `loads` such that the lowest are raised to one level. */
function level(loads: readonly number[], extra: number): number[] {
  const sorted = [...loads].sort((a, b) => a - b)
  let height = Infinity
  let below = extra
  for (let count = 1; count <= sorted.length; count++) {
    below += sorted[count - 1]!
    height = below / count
    if (count === sorted.length || height <= sorted[count]!) break
  }
  return loads.map((load) => Math.max(load, height))
}

let ascending = new Uint32Array(0)

/** Returns 0 … count - 1, as a read-only view of one array that all owners share. */
function every(count: number): Uint32Array {
  if (ascending.length < count) ascending = Uint32Array.from({ length: 2 * count }, (_, index) => index)
  return ascending.subarray(0, count)
}

function remaining(skipped: Uint8Array): Uint32Array {
  const rows = new Uint32Array(skipped.length)
  let count = 0
  for (let row = 0; row < skipped.length; row++) if (skipped[row] === 0) rows[count++] = row
  return rows.subarray(0, count)
}

/** Tables never change, so their order is checked only once. */
const ordered = new WeakMap<TensorTable, boolean>()

/** Returns `rows` (ascending), or a sorted copy of them if the table is not in segment order. */
function inSegmentOrder(table: TensorTable, rows: Uint32Array): Uint32Array {
  let inOrder = ordered.get(table)
  if (inOrder === undefined) {
    inOrder = isInSegmentOrder(table)
    ordered.set(table, inOrder)
  }
  if (inOrder) return rows
  const { segments, offsets } = table
  return rows.slice().sort((x, y) => segments[x]! - segments[y]! || offsets[x]! - offsets[y]! || x - y)
}

function isInSegmentOrder({ count, segments, offsets }: TensorTable): boolean {
  for (let row = 1; row < count; row++) {
    if (segments[row - 1]! > segments[row]!) return false
    if (segments[row - 1] === segments[row] && offsets[row - 1]! > offsets[row]!) return false
  }
  return true
}

function sum(values: Float64Array): number {
  let total = 0
  for (const value of values) total += value
  return total
}
