import type { SerializedError } from '@ckpt/contract'
import type { CheckpointSource, RegisterOptions, UpdateReport } from '@ckpt/core'

/** Calls that a cluster makes on its rank processes, by name: argument and result. */
export interface RankCalls {
  create: [
    {
      rank: number
      worldSize: number
      address: string
      keepAlive: boolean
      timeoutMs: number
      heartbeatTimeoutMs?: number
      token?: string
      threads?: number
      /** Index of the GPU; absent for the host device. */
      gpu?: number
    },
    void,
  ]
  register: [{ name: string; source: CheckpointSource; options: RegisterOptions }, { milliseconds: number }]
  unregister: [{ name: string }, void]
  gatherMetas: [{ name: string; digests?: boolean }, { milliseconds: number; tensors: number; digest: string }]
  saveMetas: [{ name: string; path: string }, void]
  loadMetas: [{ path: string }, void]
  publishMetas: [{ name: string }, void]
  fetchMetas: [{ name: string; address: string; token: string }, void]
  servedBytes: [undefined, number]
  update: [RankUpdate, UpdateReport]
  resources: [undefined, RankResources]
  /** Memory of the rank's device, in bytes. */
  deviceMemory: [undefined, { free: number; total: number }]
  close: [undefined, void]
}

export interface RankUpdate {
  readonly name: string
  /** Control socket of this rank's engine worker. */
  readonly engineSocket: string
  /** Ranks that pull the checkpoint (p2p); absent for a broadcast to all. */
  readonly p2p?: readonly number[]
  readonly version?: string
  readonly verify?: boolean
  readonly ringBytes?: number
  readonly bucketBytes?: number
  readonly chunkBytes?: number
  readonly keepAlive?: boolean
  readonly timeoutMs?: number
}

/** What a rank process holds, for leak checks. */
export interface RankResources {
  readonly pid: number
  readonly residentBytes: number
  /** JavaScript objects and their buffers, after a garbage collection. */
  readonly heapBytes: number
  readonly peakResidentBytes: number
  readonly openFiles: number
  readonly maps: number
}

export type RankCall = keyof RankCalls

export interface RankRequestMessage {
  readonly id: number
  readonly call: RankCall
  readonly argument: unknown
}

export type RankReplyMessage = { readonly id: number } & ({ readonly value: unknown } | { readonly error: SerializedError })
