import { createHash } from 'node:crypto'

/** Maximum size of the tensors of one check, unless a single tensor is larger. */
const MOST_BYTES = 64 * 2 ** 20

/** A tensor that can be checked. */
export interface Candidate {
  readonly name: string
  readonly bytes: number
}

/** Direct updates that a rank has counted, announced at the beginning of an update: for which recordings, and how many. */
export type DirectCount = { readonly recordings: string; readonly updates: number } | null

/**
 * Returns the number of a direct update since its engine was recorded: the same on all ranks, even if one of them has
 * restarted.
 */
export function countUpdate(recordings: string, announced: readonly DirectCount[]): number {
  return 1 + Math.max(0, ...announced.map((one) => (one?.recordings === recordings ? one.updates : 0)))
}

/** Returns a name for the recordings of all ranks. */
export function nameRecordings(ids: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(ids)).digest('hex').slice(0, 32)
}

/**
 * Returns true for updates that are checked: the second, or the first if no bytes were compared while the engine was recorded
 * (`rehearsed`), and then every `every`-th; for none if that is 0.
 */
export function isChecked(update: number, every: number, rehearsed = false): boolean {
  return every > 0 && (update === (rehearsed ? 1 : 2) || update % every === 0)
}

/**
 * Chooses one tensor of each kind by `seed`: names that differ only in numbers are of one kind, as those of all layers' or all
 * experts' parts are. Equal inputs give the same choice.
 */
export function chooseKinds(candidates: readonly Candidate[], seed: string): { layer: string; tensors: string[] } | undefined {
  const kinds = new Map<string, string[]>()
  for (const { name, bytes } of candidates) {
    if (bytes === 0) continue
    const kind = name.replace(/\d+/g, '#')
    const known = kinds.get(kind)
    if (known) known.push(name)
    else kinds.set(kind, [name])
  }
  if (kinds.size === 0) return undefined
  const tensors = [...kinds].map(([kind, names]) => {
    const random = createHash('sha256').update(`${seed} ${kind}`).digest()
    return names.sort(byCode)[random.readUInt32LE(0) % names.length]!
  })
  return { layer: 'one of each kind', tensors: tensors.sort(byCode) }
}

/** Chooses tensors of one layer by `seed`; of a large layer a run of tensors. Equal inputs give the same choice. */
export function chooseLayer(candidates: readonly Candidate[], seed: string): { layer: string; tensors: string[] } | undefined {
  const layers = new Map<string, Candidate[]>()
  for (const candidate of candidates) {
    if (candidate.bytes === 0) continue
    const layer = layerOf(candidate.name)
    const known = layers.get(layer)
    if (known) known.push(candidate)
    else layers.set(layer, [candidate])
  }
  if (layers.size === 0) return undefined
  const random = createHash('sha256').update(seed).digest()
  const names = [...layers.keys()].sort(byCode)
  const layer = names[random.readUInt32LE(0) % names.length]!
  const members = layers.get(layer)!.sort((a, b) => byCode(a.name, b.name))
  const first = random.readUInt32LE(4) % members.length
  const tensors: string[] = []
  let bytes = 0
  for (let i = 0; i < members.length; i++) {
    const member = members[(first + i) % members.length]!
    if (tensors.length > 0 && bytes + member.bytes > MOST_BYTES) break
    tensors.push(member.name)
    bytes += member.bytes
  }
  return { layer, tensors: tensors.sort(byCode) }
}

/**
 * Returns a name up to its first number: `model.layers.3` of `model.layers.3.mlp.up_proj.weight`; the whole name if there is
 * none.
 */
function layerOf(name: string): string {
  return /^.*?\.\d+(?=\.)/.exec(name)?.[0] ?? name
}

function byCode(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
