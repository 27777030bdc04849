import { CkptError, DTYPES, type Manifest, type TensorTable } from '@ckpt/contract'

/** One tensor that several ranks hold, as positions in the manifest's ranks (ascending) and rows in their tables. */
export interface Replica {
  readonly holders: readonly number[]
  readonly rows: readonly number[]
  readonly bytes: number
}

const found = new WeakMap<Manifest, readonly Replica[]>()

/**
 * Returns tensors that more than one rank registered, in the order of their first holder's table. This is the only part of
 * planning that compares names (and their hashes first); manifests are immutable, so its result is kept as long as the manifest
 * exists.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming tensor and ranks if copies differ in dtype, shape or digest, or one rank has a
 * name twice.
 */
export function findReplicas(manifest: Manifest): readonly Replica[] {
  let replicas = found.get(manifest)
  if (replicas === undefined) {
    replicas = namesAreUnique(manifest) ? [] : search(manifest)
    found.set(manifest, replicas)
  }
  return replicas
}

/** In the usual case only this runs: no rank holds what a different one does. */
function namesAreUnique(manifest: Manifest): boolean {
  return uniqueByHash(manifest) ?? uniqueByName(manifest)
}

/** Compares the ranks' own hashes, and decodes only names with equal hashes; undefined if a rank sent none. */
function uniqueByHash(manifest: Manifest): boolean | undefined {
  const total = manifest.ranks.reduce((sum, { tensors }) => sum + tensors.count, 0)
  const hashes = new Uint32Array(total)
  const starts: number[] = []
  let start = 0
  for (const { tensors } of manifest.ranks) {
    if (tensors.nameHashes?.length !== tensors.count) return undefined
    hashes.set(tensors.nameHashes, start)
    starts.push(start)
    start += tensors.count
  }
  // Open addressing with linear probing, at most half full. A slot holds an index + 1.
  const mask = 2 ** (32 - Math.clz32(2 * total)) - 1
  const slots = new Int32Array(mask + 1)
  const name = (index: number) => {
    const position = positionOf(starts, index)
    return manifest.ranks[position]!.tensors.names.at(index - starts[position]!)
  }
  for (let index = 0; index < total; index++) {
    const hash = hashes[index]!
    let slot = hash & mask
    for (let other = slots[slot]!; other !== 0; other = slots[slot]!) {
      if (hashes[other - 1] === hash && name(other - 1) === name(index)) return false
      slot = (slot + 1) & mask
    }
    slots[slot] = index + 1
  }
  return true
}

function uniqueByName(manifest: Manifest): boolean {
  const seen = new Set<string>()
  let total = 0
  for (const { tensors } of manifest.ranks) {
    const { count, names } = tensors
    for (let row = 0; row < count; row++) seen.add(names.at(row))
    total += count
  }
  return seen.size === total
}

function search(manifest: Manifest): Replica[] {
  const first = new Map<string, number>()
  const starts: number[] = []
  const repeated = new Map<number, { holders: number[]; rows: number[]; bytes: number }>()
  let start = 0
  manifest.ranks.forEach(({ tensors }, position) => {
    starts.push(start)
    const { count, names } = tensors
    for (let row = 0; row < count; row++) {
      const name = names.at(row)
      const earlier = first.get(name)
      if (earlier === undefined) {
        first.set(name, start + row)
        continue
      }
      const holder = positionOf(starts, earlier)
      const group = repeated.get(earlier) ?? {
        holders: [holder],
        rows: [earlier - starts[holder]!],
        bytes: tensors.bytes[row]!,
      }
      check(manifest, name, group, position, row)
      group.holders.push(position)
      group.rows.push(row)
      repeated.set(earlier, group)
    }
    start += count
  })
  return [...repeated].sort(([a], [b]) => a - b).map(([, group]) => group)
}

function positionOf(starts: readonly number[], index: number): number {
  let position = starts.length - 1
  while (starts[position]! > index) position--
  return position
}

function check(manifest: Manifest, name: string, group: Replica, position: number, row: number): void {
  const [holder, holderRow] = [group.holders[0]!, group.rows[0]!]
  const ranks = [manifest.ranks[holder]!.rank, manifest.ranks[position]!.rank]
  const fail = (what: string) =>
    new CkptError('INVALID_ARGUMENT', `tensor ${name}: ${what}`, { fields: { tensor: name, ranks } })
  if (group.holders.includes(position)) throw fail(`registered twice by rank ${ranks[1]}`)
  const one = describe(manifest.ranks[holder]!.tensors, holderRow)
  const other = describe(manifest.ranks[position]!.tensors, row)
  if (one !== other) throw fail(`${one} on rank ${ranks[0]}, but ${other} on rank ${ranks[1]}`)
  const [first, second] = [digestOf(manifest, holder, holderRow), digestOf(manifest, position, row)]
  if (first !== undefined && second !== undefined && first !== second) {
    throw fail(`bytes on rank ${ranks[1]} differ from those on rank ${ranks[0]}, according to their digests`)
  }
}

function digestOf(manifest: Manifest, position: number, row: number): bigint | undefined {
  return manifest.ranks[position]!.tensors.digests?.[row]
}

function describe(table: TensorTable, row: number): string {
  return `${DTYPES[table.dtypes[row]!]} [${table.shapes[table.shapeIds[row]!]!.join(', ')}]`
}
