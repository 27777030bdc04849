/** Single faults of bytes and copies. An update must notice each of them before it is committed as verified. */
export const MUTATIONS = [
  /** A byte of a registered file changes after its digest was taken, by a normal write. */
  'source',
  /** The same through a shared mapping, which does not change the file's times. */
  'source mapping',
  /** A registered file is replaced by one of the same size with a different byte. */
  'file swapped',
  /** A byte of the ring changes before the worker compares the tensor's digest. */
  'ring before comparison',
  /** A byte of the ring changes between that comparison and loading. */
  'ring after comparison',
  /** The loader leaves one tensor's bytes out. */
  'load left out',
  /** The loader reads one tensor's bytes from a wrong place. */
  'load shifted',
  /** A byte of a parameter changes after it was written. */
  'parameter',
  /** A rank leaves out one copy into parameters. */
  'copy left out',
  /** A rank copies from, or to, a wrong place. */
  'copy shifted',
  /** A rank writes a wrong byte into a parameter after its copies. */
  'copy changed',
] as const

export type MutationKind = (typeof MUTATIONS)[number]

export interface Mutation {
  readonly kind: MutationKind
  /** Seed of its random choices. */
  readonly seed: number
}

/** Ways in which bytes reach the engine's parameters. */
export const WAYS = ['staged', 'replayed', 'direct', 'p2p', 'remote'] as const
export type Way = (typeof WAYS)[number]

const LOADED: readonly MutationKind[] = ['ring before comparison', 'ring after comparison', 'load left out', 'load shifted']
const COPIED: readonly MutationKind[] = ['copy left out', 'copy shifted', 'copy changed']

/** Returns the faults that are possible in updates of one kind. */
export function mutationsOf(way: Way): MutationKind[] {
  const written = way === 'direct' || way === 'remote' ? COPIED : LOADED
  return ['source', 'source mapping', 'file swapped', 'parameter', ...written]
}

/** Faults that happen in an engine worker; the others happen in a rank, or to its files. */
export function inEngine(kind: MutationKind): boolean {
  return kind === 'parameter' || LOADED.includes(kind)
}
