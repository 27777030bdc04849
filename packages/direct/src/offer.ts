import { createHash } from 'node:crypto'
import { CkptError, checkMessagePack, type ProcessName, type Recording, type StorageHandle } from '@ckpt/contract'
import { Packr, Unpackr } from 'msgpackr'
import { z } from 'zod'
import { checkRecording, checkStorages, recordingFrame, recordingSchema, storageSchema } from '@ckpt/worker-link'
import { firstIssue } from '@ckpt/utils'
import type { OfferedSegment } from './peer-memory.ts'

/** Data that one rank sends to the others to plan a direct update, or the reason why it cannot take part in one. */
export type Offer = Refused | Offered

export interface Refused {
  readonly rank: number
  /** Reason why this rank's engine worker needs a staged update. */
  readonly refused: string
  /** True if there is a recording that cannot be used. */
  readonly recorded: boolean
}

export interface Offered {
  readonly rank: number
  readonly recording: Recording
  readonly storages: readonly StorageHandle[]
  readonly segments: readonly OfferedSegment[]
  /** The rank's own process, whose descriptors the segments name. */
  readonly owner?: ProcessName | undefined
  /** The engine worker's process, whose memory contains the storages. */
  readonly process?: ProcessName | undefined
  /** True if this rank's device reaches the memory of all other devices of its host. */
  readonly reaches: boolean
}

const packr = new Packr({ useRecords: false, variableMapSize: true })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true })

/** Encodes an offer for the exchange between ranks; equal offers have equal digests. */
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
    throw new CkptError('RENDEZVOUS_PROTOCOL', 'offer of a rank is not MessagePack', { cause: error })
  }
  const parsed = offerSchema.safeParse(value)
  if (parsed.success) {
    const offer = parsed.data
    if ('recording' in offer) {
      const problem = checkRecording(offer.recording) ?? checkStorages(offer.recording, offer.storages)
      if (problem !== undefined) {
        const text = `offer of rank ${offer.rank} is malformed: ${problem}`
        throw new CkptError('RENDEZVOUS_PROTOCOL', text, { fields: { rank: offer.rank, field: 'recording' } })
      }
    }
    return offer
  }
  const { field, message } = firstIssue(parsed.error)
  throw new CkptError('RENDEZVOUS_PROTOCOL', `offer of a rank is malformed: ${field}: ${message}`, { fields: { field } })
}

const rank = z.number().int().nonnegative()
const processName = z.object({ pid: z.number().int().nonnegative(), mark: z.string().max(128) })
const decimal = z.string().regex(/^\d{1,20}$/)
const bytes = z.number().int().nonnegative()
const segment = z.object({
  id: z.string().max(128),
  memory: z
    .object({
      device: decimal,
      inode: decimal,
      bytes,
      modified: decimal.optional(),
      path: z.string().max(4096).optional(),
      descriptor: bytes.optional(),
    })
    .optional(),
})
const offerSchema: z.ZodType<Offer> = z.union([
  z.object({ rank, refused: z.string(), recorded: z.boolean() }),
  z.object({
    rank,
    recording: recordingSchema,
    storages: z.array(storageSchema),
    segments: z.array(segment),
    owner: processName.optional(),
    process: processName.optional(),
    reaches: z.boolean(),
  }),
])
