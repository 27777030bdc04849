import type { SerializedError, WorkerProtocol } from '@ckpt/contract'
import type { CheckpointSource, RegisterOptions, ServeOptions, UpdateReport, VerificationLevel, WorkerStatus } from '@ckpt/core'
import type { Mutation } from '../mutations/mutation.ts'
import type { RankPoint } from './hold-points.ts'

/** Calls that a cluster makes on its rank processes, by name: argument and result. */
export interface RankCalls {
  create: [
    {
      rank: number
      worldSize: number
      address: string
      token?: string
      elastic?: boolean
      metricsPort?: number
      keepAlive: boolean
      shareMemory?: boolean
      /** Options for serving what this rank holds (default: those of the parameter server). */
      serve?: ServeOptions
      timeoutMs: number
      heartbeatMs?: number
      heartbeatTimeoutMs?: number
      threads?: number
      /** Index of the GPU; absent for the host device. */
      gpu?: number
      /** Use the host device, with faults in direct copies (`mutate`). */
      mutable?: boolean
      /** Present the host device's rings as CUDA memory, to workers with a stand-in for CUDA (compat/stand_in_cuda.py). */
      standInCuda?: boolean
    },
    void,
  ]
  /** With `watch` the rank reports when bytes have begun to arrive (it does not wait there). */
  register: [{ name: string; source: CheckpointSource; options: RegisterOptions; watch?: boolean }, { milliseconds: number }]
  unregister: [{ name: string }, void]
  gatherMetas: [
    { name: string; digests?: boolean; timeoutMs?: number; vllm?: RankUpdate['vllm'] },
    { milliseconds: number; tensors: number; digest: string },
  ]
  saveMetas: [{ name: string; path: string }, void]
  loadMetas: [{ path: string }, void]
  publishMetas: [{ name: string }, void]
  fetchMetas: [{ name: string; address: string; token: string; timeoutMs: number }, void]
  servedBytes: [undefined, number]
  update: [RankUpdate, UpdateReport]
  /** Lets a held update continue. */
  go: [undefined, void]
  /** The rank's knowledge of the engine workers. */
  engineStates: [undefined, WorkerStatus[]]
  /** Time of the rank's last update, and its minimum time, in milliseconds; for its metrics. */
  recordLimit: [{ totalMs: number; limitMs: number }, void]
  resources: [undefined, RankResources]
  /** A fault of its device that happens once; null removes it. */
  mutate: [{ mutation: Mutation | null }, void]
  /** Memory of the rank's device, in bytes. */
  deviceMemory: [undefined, { free: number; total: number }]
  close: [undefined, void]
}

export interface RankUpdate {
  readonly name: string
  /** Control socket of this rank's engine worker, if it is a reference engine. */
  readonly engineSocket?: string
  /** The vLLM server that this rank's worker belongs to. */
  readonly vllm?: { readonly url: string; readonly parallelSize: number }
  /** Ranks that pull the checkpoint, through p2p. */
  readonly p2p?: readonly number[]
  /** True if they keep it. */
  readonly keep?: boolean
  /** Default: broadcast. `default` names none, so that the product's own default applies. */
  readonly strategy?: 'default' | 'broadcast' | 'direct' | 'direct-required'
  /** Protocol of the engine worker (default: ckpt's own). */
  readonly protocol?: WorkerProtocol
  readonly version?: string
  readonly verify?: VerificationLevel | boolean
  /** Interval at which direct updates are compared with the engine's own loader (default: that of `direct`). */
  readonly checkEvery?: number
  readonly ringBytes?: number
  readonly bucketBytes?: number
  readonly chunkBytes?: number
  readonly keepAlive?: boolean
  readonly timeoutMs?: number
  /** The rank reports when it is at this point, and waits there for `go`. */
  readonly hold?: { readonly at: RankPoint; readonly bucket?: number }
  readonly retry?: number
  readonly rollback?: boolean
}

/** Resources of a rank process, for leak checks. */
export interface RankResources {
  readonly pid: number
  readonly residentBytes: number
  /** JavaScript objects and their buffers, after a garbage collection. */
  readonly heapBytes: number
  readonly peakResidentBytes: number
  readonly openFiles: number
  /** Memory mappings, without the pages of V8's heap. */
  readonly maps: number
}

export type RankCall = keyof RankCalls

export interface RankRequestMessage {
  readonly id: number
  readonly call: RankCall
  readonly argument: unknown
}

/** A rank's answer to a call. `typed` is true if it threw a CkptError; other errors were converted to one on the way. */
export type RankReplyMessage = { readonly id: number } & (
  { readonly value: unknown } | { readonly error: SerializedError; readonly typed: boolean }
)

/** Sent when a process is at the point that it was told to report. */
export interface PointMessage {
  readonly point: string
}
