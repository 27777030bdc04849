import type { DType } from '@ckpt/contract'
import type { Architecture } from './architecture.ts'

/** Figures that others published about the full checkpoint. None of them is computed by this package. */
export interface PublishedCheckpoint {
  readonly tensors?: number
  /** Sum of the tensors' bytes (for most models the index's `metadata.total_size`). */
  readonly bytes?: number
  /** Sum of the safetensors files' sizes, headers included. */
  readonly fileBytes?: number
  /** Elements in all. */
  readonly parameters?: number
  /** Elements by dtype. */
  readonly parametersByDtype?: Partial<Record<DType, number>>
  /** Where the figures come from. */
  readonly source: string
}

/** One row of checkpoint-engine's published table. Times in seconds, bucket sizes in GiB. */
export interface PublishedUpdate {
  readonly devices: string
  readonly gatherMetasSeconds: number
  readonly broadcastSeconds: number
  readonly broadcastBucketGiB: number
  readonly p2pSeconds: number
  readonly p2pBucketGiB: number
  readonly source: string
}

/** A published model. */
export interface Model {
  /** Short name for the command line. */
  readonly id: string
  readonly title: string
  /** Repository on Hugging Face. */
  readonly repository: string
  readonly architecture: Architecture
  readonly published?: PublishedCheckpoint
  /** What checkpoint-engine reports for this model, smallest cluster first; empty where it reports nothing. */
  readonly updates: readonly PublishedUpdate[]
}
