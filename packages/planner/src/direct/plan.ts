import { CkptError, StridedCopies, type Manifest, type Recording, type Route } from '@ckpt/contract'
import { bytesOf, expand, merge, type Copy } from './copy.ts'
import { heldTensors, recordingMismatch, type Held, type Holder } from './fit.ts'

/** A rank, and the recording of its engine worker. */
export interface RecordedRank {
  readonly rank: number
  readonly recording: Recording
}

export interface DirectPlanOptions {
  /** Ranks of one host whose devices reach each other's memory, ascending. */
  readonly ranks: readonly RecordedRank[]
  /** Send bytes that several of them need over the host link of one, which forwards them (default true). */
  readonly forward?: boolean
  /** Allow reads of tensors that no rank of the host holds from ranks of other hosts (default false). */
  readonly remote?: boolean
  /** Tensors that go through the ring on other hosts, and therefore also here. */
  readonly opaque?: Iterable<string>
}

/** A tensor that goes through the ring, and the first rank whose worker requires it. */
export interface OpaqueName {
  readonly name: string
  readonly reason: string
  readonly rank: number
}

/** Part of one rank in a direct update. */
export interface RankDirectPlan {
  /**
   * Host memory that is read, by rank (of a different host, with `remote`) and segment; the sources of `copies` are indices
   * into it.
   */
  readonly sources: readonly { readonly rank: number; readonly segment: number }[]
  /** Copies into storages of the own engine worker, in the order in which host memory is read. */
  readonly copies: StridedCopies
  /** Storages of other workers; the destinations of `forwards` are indices into it, the sources are own storages. */
  readonly targets: readonly { readonly rank: number; readonly storage: number }[]
  readonly forwards: StridedCopies
  /** Bytes that the own worker needs, including forwarded ones; without opaque tensors. */
  readonly neededBytes: number
  readonly h2dBytes: number
  readonly forwardBytes: number
  readonly routes: number
}

export interface DirectPlan {
  readonly ranks: ReadonlyMap<number, RankDirectPlan>
  /** Opaque tensors by name; no rank writes them directly. */
  readonly opaque: readonly OpaqueName[]
  /** Bytes that all ranks need, each byte counted once per host. */
  readonly uniqueBytes: number
}

interface Draft {
  readonly copies: Copy[]
  readonly forwards: Copy[]
  readonly sources: Map<string, number>
  readonly targets: Map<string, number>
  neededBytes: number
  assigned: number
  routes: number
}

/**
 * Plans which rank copies which bytes to which place: every byte that a worker needs reaches it exactly once, unless it belongs
 * to an opaque tensor. Pure and deterministic: every rank of a host makes the same plan.
 *
 * @throws CkptError `PLAN_INFEASIBLE` with the reason why the checkpoint does not match a recording (field `mismatch`), or
 * whose memory is out of reach.
 */
export function planDirect(manifest: Manifest, options: DirectPlanOptions): DirectPlan {
  const { ranks, forward = true, remote = false } = options
  const held = heldTensors(manifest)
  for (const { rank, recording } of ranks) {
    const reason = recordingMismatch(held, recording)
    if (reason !== undefined) throw infeasible(`${reason} (rank ${rank})`, { rank, mismatch: true })
  }
  const opaque = opaqueNames(ranks, options.opaque)
  const drafts = new Map(ranks.map(({ rank }) => [rank, newDraft()]))
  const hosts = new Map(manifest.ranks.map(({ rank, host }) => [rank, host]))
  const away: Away | undefined = remote ? new Map() : undefined
  let uniqueBytes = 0
  for (const needs of needsByTensor(ranks, opaque)) {
    const tensor = held.get(needs.name)!
    for (const alike of forward ? needs.alike() : needs.alone()) {
      const reader = lightest(alike, drafts)
      const holder = holderFor(tensor, needs.name, reader.rank, hosts, away)
      const draft = drafts.get(reader.rank)!
      const source = indexOf(draft.sources, `${holder.rank}/${holder.segment}`)
      const copies = [...expand(reader.route, source, holder.offset)]
      draft.copies.push(...copies)
      const bytes = bytesOf(copies)
      if (away && hosts.get(holder.rank) !== hosts.get(reader.rank)) away.set(holder.rank, (away.get(holder.rank) ?? 0) + bytes)
      draft.assigned += bytes
      uniqueBytes += bytes
      for (const need of alike) {
        const needing = drafts.get(need.rank)!
        needing.neededBytes += bytes
        needing.routes++
        if (need !== reader) draft.forwards.push(...handOn(reader.route, need, draft.targets))
      }
    }
  }
  return {
    ranks: new Map([...drafts].map(([rank, draft]) => [rank, finish(draft)])),
    opaque: [...opaque.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)),
    uniqueBytes,
  }
}

function newDraft(): Draft {
  return { copies: [], forwards: [], sources: new Map(), targets: new Map(), neededBytes: 0, assigned: 0, routes: 0 }
}

function opaqueNames(ranks: readonly RecordedRank[], others: Iterable<string> = []): Map<string, OpaqueName> {
  const found = new Map<string, OpaqueName>()
  for (const { rank, recording } of ranks) {
    for (const { tensor, reason } of recording.opaque) {
      const { name } = recording.tensors[tensor]!
      if (!found.has(name)) found.set(name, { name, reason, rank })
    }
  }
  for (const name of others) {
    if (!found.has(name)) found.set(name, { name, reason: 'it is opaque on a different host', rank: -1 })
  }
  return found
}

interface Need {
  readonly rank: number
  readonly route: Route
}

/** Needs of the workers for one tensor. */
class Needs {
  readonly name: string
  readonly all: Need[] = []

  constructor(name: string) {
    this.name = name
  }

  alone(): Need[][] {
    return this.all.map((need) => [need])
  }

  /** Returns groups of needs of different ranks for identical bytes; a rank's own second copy of them is separate. */
  alike(): Need[][] {
    const groups = new Map<string, Need[]>()
    for (const need of this.all) {
      const { sourceOffset, rowBytes, dims } = need.route
      let key = `${sourceOffset}/${rowBytes}`
      for (let at = 0; at < dims.length; at += 3) key += `/${dims[at]!}x${dims[at + 1]!}`
      for (let copy = 0; ; copy++) {
        const group = groups.get(`${key}#${copy}`)
        if (group === undefined) groups.set(`${key}#${copy}`, [need])
        else if (group.some(({ rank }) => rank === need.rank)) continue
        else group.push(need)
        break
      }
    }
    return [...groups.values()]
  }
}

/** Sorted by the first worker's tensors. */
function needsByTensor(ranks: readonly RecordedRank[], opaque: ReadonlyMap<string, OpaqueName>): Iterable<Needs> {
  const found = new Map<string, Needs>()
  for (const { rank, recording } of ranks) {
    for (const route of recording.routes) {
      const { name } = recording.tensors[route.tensor]!
      if (opaque.has(name)) continue
      let needs = found.get(name)
      if (needs === undefined) found.set(name, (needs = new Needs(name)))
      needs.all.push({ rank, route })
    }
  }
  return found.values()
}

/** Returns the rank with the fewest bytes over its host link so far. */
function lightest(needs: readonly Need[], drafts: ReadonlyMap<number, Draft>): Need {
  let best = needs[0]!
  for (const need of needs) if (drafts.get(need.rank)!.assigned < drafts.get(best.rank)!.assigned) best = need
  return best
}

/** Bytes read from each rank of other hosts. */
type Away = Map<number, number>

/**
 * Returns the reading rank's own memory if it has the tensor, otherwise that of a different rank of its host, otherwise that of
 * the least used rank of a different host.
 */
function holderFor(tensor: Held, name: string, rank: number, hosts: ReadonlyMap<number, string>, away?: Away): Holder {
  const near = tensor.holders.filter(({ host }) => host === hosts.get(rank))
  const holder = near.find((one) => one.rank === rank) ?? near[0]
  if (holder) return holder
  if (away !== undefined) {
    const asked = (one: Holder) => away.get(one.rank) ?? 0
    return tensor.holders.reduce((best, one) => (asked(one) < asked(best) ? one : best))
  }
  const others = tensor.holders.map((one) => one.rank)
  throw infeasible(
    `tensor ${name} is only in the memory of ranks ${others.join(', ')}, on a different host than rank ${rank}`,
    {
      tensor: name,
    },
  )
}

/** Forwards bytes from their place at the reader to the worker that needs them. */
function handOn(from: Route, need: Need, targets: Map<string, number>): Copy[] {
  const { dims } = from
  // Both routes iterate over the same bytes in the same dimensions: only the destinations differ.
  const between: Route = {
    tensor: from.tensor,
    storage: indexOf(targets, `${need.rank}/${need.route.storage}`),
    sourceOffset: from.destinationOffset,
    destinationOffset: need.route.destinationOffset,
    rowBytes: from.rowBytes,
    dims: dims.map((value, index) => (index % 3 === 0 ? value : index % 3 === 1 ? dims[index + 1]! : need.route.dims[index]!)),
  }
  return [...expand(between, from.storage, 0)]
}

function indexOf(list: Map<string, number>, key: string): number {
  const known = list.get(key)
  if (known !== undefined) return known
  list.set(key, list.size)
  return list.size - 1
}

function finish(draft: Draft): RankDirectPlan {
  const pairs = (list: Map<string, number>) => [...list.keys()].map((key) => key.split('/').map(Number) as [number, number])
  const copies = merge(draft.copies)
  const forwards = merge(draft.forwards)
  return {
    sources: pairs(draft.sources).map(([rank, segment]) => ({ rank, segment })),
    copies: StridedCopies.from(copies),
    targets: pairs(draft.targets).map(([rank, storage]) => ({ rank, storage })),
    forwards: StridedCopies.from(forwards),
    neededBytes: draft.neededBytes,
    h2dBytes: bytesOf(copies),
    forwardBytes: bytesOf(forwards),
    routes: draft.routes,
  }
}

function infeasible(message: string, fields: Record<string, unknown>): CkptError {
  return new CkptError('PLAN_INFEASIBLE', message, { fields })
}
