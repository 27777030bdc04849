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
      /** Where others reach what this rank holds (default: as the parameter server chooses). */
      serve?: ServeOptions
      timeoutMs: number
      heartbeatMs?: number
      heartbeatTimeoutMs?: number
      threads?: number
      /** Index of the GPU; absent for the host device. */
      gpu?: number
      /** The host device, with faults in direct copies (`mutate`). */
      mutable?: boolean
      /** Present the host device's rings as CUDA memory, to workers that stand in for CUDA (compat/stand_in_cuda.py). */
      standInCuda?: boolean
    },
    void,
  ]
  /** With `watch` the rank tells when bytes have begun to come in (it does not wait there). */
  register: [{ name: string; source: CheckpointSource; options: RegisterOptions; watch?: boolean }, { milliseconds: number }]
  unregister: [{ name: string }, void]
  gatherMetas: [
    { name: string; digests?: boolean; timeoutMs?: number },
    { milliseconds: number; tensors: number; digest: string },
  ]
  saveMetas: [{ name: string; path: string }, void]
  loadMetas: [{ path: string }, void]
  publishMetas: [{ name: string }, void]
  fetchMetas: [{ name: string; address: string; token: string; timeoutMs: number }, void]
  servedBytes: [undefined, number]
  update: [RankUpdate, UpdateReport]
  /** Lets a held update go on. */
  go: [undefined, void]
  /** What the rank knows of the engine workers. */
  engineStates: [undefined, WorkerStatus[]]
  /** What the rank's last update took, and what it could have taken at least, in milliseconds; for its metrics. */
  recordLimit: [{ totalMs: number; limitMs: number }, void]
  resources: [undefined, RankResources]
  /** A fault that its device is to have, once; null takes it back. */
  mutate: [{ mutation: Mutation | null }, void]
  /** Memory of the rank's device, in bytes. */
  deviceMemory: [undefined, { free: number; total: number }]
  close: [undefined, void]
}

export interface RankUpdate {
  readonly name: string
  /** Control socket of this rank's engine worker. */
  readonly engineSocket: string
  /** Ranks that pull the checkpoint, by p2p. */
  readonly p2p?: readonly number[]
  /** They keep it. */
  readonly keep?: boolean
  /** Default: broadcast. */
  readonly strategy?: 'broadcast' | 'direct' | 'direct-required'
  /** What the engine worker speaks (default: ckpt's own protocol). */
  readonly protocol?: WorkerProtocol
  readonly version?: string
  readonly verify?: VerificationLevel | boolean
  /** Of direct updates: how often one is held against the engine's own loader (default: as `direct` has it). */
  readonly checkEvery?: number
  readonly ringBytes?: number
  readonly bucketBytes?: number
  readonly chunkBytes?: number
  readonly keepAlive?: boolean
  readonly timeoutMs?: number
  /** The rank tells when it is at this point, and waits there for `go`. */
  readonly hold?: { readonly at: RankPoint; readonly bucket?: number }
  readonly retry?: number
  readonly rollback?: boolean
}

/** What a rank process holds, for leak checks. */
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

/** A rank's answer to a call. `typed` says whether what was thrown was a CkptError; anything else has become one on the way. */
export type RankReplyMessage = { readonly id: number } & (
  { readonly value: unknown } | { readonly error: SerializedError; readonly typed: boolean }
)

/** Sent when a process is at the point it was told to watch for. */
export interface PointMessage {
  readonly point: string
}
