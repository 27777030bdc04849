import { createHash, randomUUID } from 'node:crypto'
import { CkptError, checkMessagePack, type HostMemory, type Recording, type StorageHandle } from '@ckpt/contract'
import { Packr, Unpackr } from 'msgpackr'
import { z } from 'zod'
import type { WorkerProcess } from '../update/session.ts'
import { recordingFrame, recordingSchema, storageSchema } from '../worker-protocol/messages.ts'

/** What one rank tells the others so that a direct update can be planned. Or why it cannot take part in one. */
export type Offer = Refused | Offered

export interface Refused {
  readonly rank: number
  /** Why this rank's engine worker has to be given everything. */
  readonly refused: string
  /** Whether a recording is there, which cannot be used. */
  readonly recorded: boolean
}

/** One of a rank's segments, as other ranks of its host get at it. */
export interface OfferedSegment {
  /** File to map; null for memory that nobody else can. */
  readonly path: string | null
  /** New with every memory: the same file may have been written anew. */
  readonly id: string
}

export interface Offered {
  readonly rank: number
  readonly recording: Recording
  readonly storages: readonly StorageHandle[]
  readonly segments: readonly OfferedSegment[]
  /** The engine worker's process, whose memory the storages are. */
  readonly process?: WorkerProcess | undefined
  /** Whether this rank's device reaches the memory of all the others' of its host. */
  readonly reaches: boolean
}

const packr = new Packr({ useRecords: false, variableMapSize: true })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true })

/** An offer as the ranks exchange it; equal offers have equal digests. */
export function encodeOffer(offer: Offer): { digest: string; payload: Uint8Array } {
  const plain = 'refused' in offer ? offer : { ...offer, recording: recordingFrame(offer.recording) }
  const payload = Buffer.from(packr.pack(plain))
  return { digest: createHash('sha256').update(payload).digest('hex').slice(0, 32), payload }
}

/** @throws CkptError `RENDEZVOUS_PROTOCOL` naming the field. */
export function decodeOffer(payload: Uint8Array): Offer {
  let value: unknown
  try {
    checkMessagePack(payload)
    value = unpackr.unpack(payload)
  } catch (error) {
    throw new CkptError('RENDEZVOUS_PROTOCOL', 'a rank offers something that is not MessagePack', { cause: error })
  }
  const parsed = offerSchema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  const text = `a rank offers something malformed: ${issue.path.join('.')}: ${issue.message}`
  throw new CkptError('RENDEZVOUS_PROTOCOL', text, { fields: { field: issue.path.join('.') } })
}

const rank = z.number().int().nonnegative()
const offerSchema: z.ZodType<Offer> = z.union([
  z.object({ rank, refused: z.string(), recorded: z.boolean() }),
  z.object({
    rank,
    recording: recordingSchema,
    storages: z.array(storageSchema),
    segments: z.array(z.object({ path: z.string().nullable(), id: z.string() })),
    process: z.object({ pid: z.number().int().nonnegative(), mark: z.string().max(128) }).optional(),
    reaches: z.boolean(),
  }),
])

const ids = new WeakMap<HostMemory, string>()

/** A memory as other processes of this host find it. */
export function offerSegment(memory: HostMemory): OfferedSegment {
  let id = ids.get(memory)
  if (id === undefined) ids.set(memory, (id = randomUUID()))
  const path = memory.name === undefined ? null : memory.kind === 'shared' ? `/dev/shm/${memory.name}` : memory.name
  return { path, id }
}
