import type { EngineSession, RingTensor } from '@ckpt/contract'

/** How far an attempt came on this rank; the names stand in errors (`phase`). */
export type UpdatePhase = 'begin' | 'attach' | 'pipeline' | 'release' | 'vote' | 'commit' | 'done'

const ORDER: readonly UpdatePhase[] = ['begin', 'attach', 'pipeline', 'release', 'vote', 'commit', 'done']

/** Whether workers may have loaded something by then: from the attach on, other ranks may be ahead with their first buckets. */
export function mayHaveTouched(phase: unknown): boolean {
  return ORDER.indexOf(phase as UpdatePhase) >= ORDER.indexOf('attach')
}

/** What one attempt at an update has done to this rank's worker. */
export class UpdateProgress {
  phase: UpdatePhase = 'begin'
  /** True once the worker was given anything: what waits for it to attach does not count. */
  touched = false
  /** The worker's name for the parameters it began with; undefined where it does not say, or was not reached. */
  workerState: string | undefined
  /** Names of tensors that the worker compared with their digests and loaded; only kept where a retry may use them. */
  readonly loaded: Set<string> | undefined

  constructor(keepLoaded: boolean) {
    this.loaded = keepLoaded ? new Set() : undefined
  }

  /** The session, with what it loads noted here. */
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
