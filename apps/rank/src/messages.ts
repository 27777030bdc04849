import type { SerializedError, WorkerEndpoint } from '@ckpt/contract'
import { CkptError, checkMessagePack } from '@ckpt/contract'
import { firstIssue, FrameReader } from '@ckpt/utils'
import { Packr, Unpackr } from 'msgpackr'
import { z } from 'zod'

/** Version of the messages between a client and its rank program. */
export const RANK_PROTOCOL = 1
/** Maximum length of a frame, in bytes: the descriptions of some million tensors. */
const MAX_FRAME_BYTES = 256 * 2 ** 20
const PREFIX_BYTES = 4

const packr = new Packr({ useRecords: false, variableMapSize: true })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'number' })

const fromClient = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('call'),
    id: z.int(),
    verb: z.string(),
    arguments: z.record(z.string(), z.unknown()),
    /** True if the client wants to know how far the call has come. */
    progress: z.boolean(),
  }),
  z.object({ type: z.literal('cancel'), id: z.int() }),
  /** The client has done what it was asked for, or could not. */
  z.object({ type: z.literal('done'), ask: z.int(), error: z.string().optional() }),
])

/** A message from the client. */
export type ClientMessage = z.infer<typeof fromClient>

/** What the program asks its client for. */
export type Ask =
  /** To write its tensors to these addresses of the program's memory. */
  | { readonly what: 'fill'; readonly addresses: readonly number[] }
  /** To start the workers of an engine that only the client can call, and to wait for their end. */
  | {
      readonly what: 'engine'
      readonly rank: number
      readonly endpoints: readonly WorkerEndpoint[]
      readonly token: string
      readonly timeoutMs: number
    }

/** A message from the rank program. */
export type RankMessage =
  | { readonly type: 'ready'; readonly protocol: number; readonly pid: number }
  | { readonly type: 'result'; readonly id: number; readonly value: unknown }
  | { readonly type: 'error'; readonly id: number; readonly error: SerializedError }
  | { readonly type: 'progress'; readonly id: number; readonly done: number; readonly total: number }
  /** A request to the client, in a call of its own; it answers `done`. */
  | ({ readonly type: 'ask'; readonly id: number; readonly ask: number } & Ask)
  /** Sent every second while a call is running: the program is neither stopped nor stuck. */
  | { readonly type: 'alive' }

/** Returns a reader that cuts the client's stream into frames: the body's length in 4 bytes, little-endian, then the body. */
export function clientFrames(): FrameReader {
  return new FrameReader({
    headerBytes: PREFIX_BYTES,
    bodyBytes: (prefix) => {
      const bytes = prefix.readUInt32LE()
      if (bytes <= MAX_FRAME_BYTES) return bytes
      throw malformed(`a frame of ${bytes} bytes, more than ${MAX_FRAME_BYTES}`)
    },
  })
}

/** Decodes the body of a frame: one MessagePack map. @throws CkptError `INVALID_ARGUMENT` that names the field. */
export function decodeClientMessage(body: Buffer): ClientMessage {
  let value: unknown
  try {
    checkMessagePack(body)
    value = unpackr.unpack(body)
  } catch (error) {
    throw malformed(`a frame of ${body.length} bytes that is not MessagePack`, error)
  }
  const parsed = fromClient.safeParse(value)
  if (parsed.success) return parsed.data
  const { field, message } = firstIssue(parsed.error)
  throw malformed(`a malformed message: ${field}: ${message}`)
}

/** Returns the frame of a message. */
export function rankFrame(message: RankMessage): Buffer {
  const body = packr.pack(message)
  const prefix = Buffer.alloc(PREFIX_BYTES)
  prefix.writeUInt32LE(body.length)
  return Buffer.concat([prefix, body])
}

function malformed(what: string, cause?: unknown): CkptError {
  return new CkptError('INVALID_ARGUMENT', `the client sent ${what}`, { cause })
}
