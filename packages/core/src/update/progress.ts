import type { EngineSession, RingTensor } from '@ckpt/contract'

/** Phase that an attempt reached on this rank; the names appear in errors (`phase`). */
export type UpdatePhase = 'begin' | 'attach' | 'pipeline' | 'release' | 'vote' | 'commit' | 'done'

const ORDER: readonly UpdatePhase[] = ['begin', 'attach', 'pipeline', 'release', 'vote', 'commit', 'done']

/**
 * Returns true if workers may have loaded something by then: from the attach on, other ranks may already send their first
 * buckets.
 */
export function mayHaveTouched(phase: unknown): boolean {
  return ORDER.indexOf(phase as UpdatePhase) >= ORDER.indexOf('attach')
}

/** Effects of one attempt at an update on this rank's worker. */
export class UpdateProgress {
  phase: UpdatePhase = 'begin'
  /** True once the worker received anything; messages that wait for its attach do not count. */
  touched = false
  /** The worker's name for the parameters it began with; undefined if it reports none, or was not reached. */
  workerState: string | undefined
  /** Names of tensors that the worker compared with their digests and loaded; only kept if a retry may use them. */
  readonly loaded: Set<string> | undefined

  constructor(keepLoaded: boolean) {
    this.loaded = keepLoaded ? new Set() : undefined
  }

  /** Wraps the session so that loads are recorded here. */
  watch(session: EngineSession): EngineSession {
    const { loaded } = this
    return {
      load: (bucket, tensors) => {
        const loading = session.load(bucket, tensors)
        return loaded ? loading.then((answer) => (note(loaded, tensors), answer)) : loading
      },
    }
  }
}

function note(loaded: Set<string>, tensors: readonly RingTensor[]): void {
  for (const { name, digest } of tensors) if (digest !== undefined) loaded.add(name)
}
