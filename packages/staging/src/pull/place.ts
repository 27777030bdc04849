import type { HostMemory } from '@ckpt/contract'

/** Destination of one bucket's bytes. */
export interface Place {
  readonly memory: HostMemory
  readonly offset: number
}
