/** Single faults of bytes and copies, each of which an update must notice before it is committed as verified. */
export const MUTATIONS = [
  /** A byte of a file that was registered changes after its digest was taken, written as files are. */
  'source',
  /** The same through a shared mapping, which leaves the file's times as they were. */
  'source mapping',
  /** A file that was registered makes way for one of the same size with a different byte. */
  'file swapped',
  /** A byte of the ring changes before the worker compares the tensor's digest. */
  'ring before comparison',
  /** A byte of the ring changes between that and loading. */
  'ring after comparison',
  /** The loader leaves one tensor's bytes out. */
  'load left out',
  /** The loader takes one tensor's bytes from a wrong place. */
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
  /** What is random about it. */
  readonly seed: number
}

/** How bytes reach the engine's parameters. */
export const WAYS = ['staged', 'replayed', 'direct', 'p2p', 'remote'] as const
export type Way = (typeof WAYS)[number]

const LOADED: readonly MutationKind[] = ['ring before comparison', 'ring after comparison', 'load left out', 'load shifted']
const COPIED: readonly MutationKind[] = ['copy left out', 'copy shifted', 'copy changed']

/** The faults that can befall updates of one kind. */
export function mutationsOf(way: Way): MutationKind[] {
  const written = way === 'direct' || way === 'remote' ? COPIED : LOADED
  return ['source', 'source mapping', 'file swapped', 'parameter', ...written]
}

/** Faults that happen in an engine worker; the others happen in a rank, or to its files. */
export function inEngine(kind: MutationKind): boolean {
  return kind === 'parameter' || LOADED.includes(kind)
}
