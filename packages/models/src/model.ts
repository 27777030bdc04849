import type { DType } from '@ckpt/contract'
import type { Architecture } from './architecture.ts'

/** Figures that others published about the full checkpoint. This package computes none of them. */
export interface PublishedCheckpoint {
  readonly tensors?: number
  /** Sum of the tensors' bytes (for most models the index's `metadata.total_size`). */
  readonly bytes?: number
  /** Sum of the safetensors files' sizes, including headers. */
  readonly fileBytes?: number
  /** Total number of elements. */
  readonly parameters?: number
  /** Number of elements by dtype. */
  readonly parametersByDtype?: Partial<Record<DType, number>>
  /** Source of the figures. */
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
  /** checkpoint-engine's reports for this model, smallest cluster first; empty if it reports nothing. */
  readonly updates: readonly PublishedUpdate[]
}
