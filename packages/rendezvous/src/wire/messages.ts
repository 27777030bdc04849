import { CkptError, checkMessagePack, type ErrorCode, type SerializedError } from '@ckpt/contract'
import { Packr, Unpackr } from 'msgpackr'
import { z } from 'zod'
import { firstIssue } from '@ckpt/utils'

/**
 * The rendezvous protocol, version 1. The first frame of every message is one MessagePack map; payloads follow as separate
 * frames. A rank starts with `join` and is answered with `welcome` or `dismissed`; each side then sends `beat` at the welcome's
 * interval. A `gather` is answered with `gathered` or `failed`. In between the coordinator may `need` the payload of a blob,
 * and after it the rank may `want` payloads it lacks. After a second a `waiting` message tells a rank that `hears` it who is
 * missing. Payloads that a rank sent to `publish` stay; anyone who knows the token may `fetch` them without being a member, and
 * is answered with `published`. `world` reports added ranks, before any answer that concerns them. `dismissed` ends a
 * membership: the rank is lost, was faulty, or the coordinator closes.
 */
export const PROTOCOL = 1

const MAX_KEY = 1024
const id = z.int().min(0)
const rank = z.int().min(0)
const digest = z.string().min(1).max(128)

const serializedError: z.ZodType<SerializedError> = z.object({
  code: z.string() as unknown as z.ZodType<ErrorCode>,
  message: z.string(),
  fields: z.record(z.string(), z.unknown()),
  get cause() {
    return serializedError.optional()
  },
}) as unknown as z.ZodType<SerializedError>

/** Kind of a gather: values, blobs by digest, nothing (a barrier), or the request for a new epoch. */
export type GatherKind = 'value' | 'blob' | 'barrier' | 'epoch'

const rankMessage = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('join'),
    protocol: z.int(),
    rank,
    worldSize: z.int(),
    incarnation: z.string().min(1).max(64),
    token: z.string().max(4096),
    host: z.string().max(256),
    pid: z.int(),
  }),
  z.object({ type: z.literal('beat'), ended: z.array(id) }),
  z.object({ type: z.literal('leave'), ended: z.array(id) }),
  z.object({
    type: z.literal('gather'),
    id,
    kind: z.enum(['value', 'blob', 'barrier', 'epoch']),
    key: z.string().max(MAX_KEY),
    ranks: z.array(rank).min(1).nullable(),
    epoch: id.nullable(),
    timeoutMs: z.number().positive(),
    digest: digest.nullable(),
    /** True if the rank understands `waiting`. */
    hears: z.boolean().optional(),
  }),
  z.object({ type: z.literal('payload'), id }),
  z.object({ type: z.literal('want'), id, digests: z.array(digest).min(1) }),
  z.object({ type: z.literal('cancel'), id }),
  z.object({ type: z.literal('abort'), epoch: id, error: serializedError }),
  z.object({ type: z.literal('publish'), key: z.string().max(MAX_KEY) }),
  z.object({ type: z.literal('fetch'), protocol: z.int(), token: z.string().max(4096), key: z.string().max(MAX_KEY) }),
])

const coordinatorMessage = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('welcome'),
    worldSize: z.int().min(1),
    heartbeatMs: z.number().positive(),
    heartbeatTimeoutMs: z.number().positive(),
  }),
  z.object({ type: z.literal('world'), worldSize: z.int().min(1) }),
  z.object({ type: z.literal('beat') }),
  z.object({ type: z.literal('gathered'), id, epoch: id.nullable(), digests: z.array(digest).nullable() }),
  z.object({ type: z.literal('need'), id }),
  z.object({ type: z.literal('payloads'), id, digests: z.array(digest) }),
  z.object({ type: z.literal('waiting'), id, ranks: z.array(rank), names: z.string() }),
  z.object({ type: z.literal('failed'), id, error: serializedError }),
  z.object({ type: z.literal('aborted'), epoch: id, rank, error: serializedError }),
  z.object({ type: z.literal('dismissed'), error: serializedError }),
  z.object({ type: z.literal('published'), key: z.string(), found: z.boolean() }),
])

export type RankMessage = z.infer<typeof rankMessage>
export type GatherMessage = Extract<RankMessage, { type: 'gather' }>
export type JoinMessage = Extract<RankMessage, { type: 'join' }>
export type FetchMessage = Extract<RankMessage, { type: 'fetch' }>
export type CoordinatorMessage = z.infer<typeof coordinatorMessage>

const packr = new Packr({ useRecords: false, moreTypes: false })
const unpackr = new Unpackr({ useRecords: false, moreTypes: false, mapsAsObjects: true })

/** Encodes a value as MessagePack. */
export function pack(value: unknown): Uint8Array {
  return packr.pack(value)
}

/** Decodes a value of {@link pack}. @throws the decoder's error if the bytes are malformed. */
export function unpack(bytes: Uint8Array): unknown {
  checkMessagePack(bytes)
  return unpackr.unpack(bytes)
}

/** @throws CkptError `RENDEZVOUS_PROTOCOL` naming `peer`. */
export function readRankMessage(frames: readonly Uint8Array[], peer: string): RankMessage {
  const message = read(rankMessage, frames, peer)
  const payloads =
    message.type === 'payload' || message.type === 'publish' || (message.type === 'gather' && message.kind === 'value') ? 1 : 0
  if (frames.length !== 1 + payloads) throw protocolError(peer, `${message.type} with ${frames.length} frames`)
  return message
}

/** @throws CkptError `RENDEZVOUS_PROTOCOL` naming `peer`. */
export function readCoordinatorMessage(frames: readonly Uint8Array[], peer: string): CoordinatorMessage {
  return read(coordinatorMessage, frames, peer)
}

export function protocolError(peer: string, why: string, cause?: unknown): CkptError {
  return new CkptError('RENDEZVOUS_PROTOCOL', `${peer} violated the rendezvous protocol: ${why}`, { fields: { peer }, cause })
}

/** Converts an error to data that MessagePack can carry, for any contents of its fields. */
export function errorData(error: CkptError): SerializedError {
  try {
    return JSON.parse(JSON.stringify(error, bigintText)) as SerializedError
  } catch {
    return { code: error.code, message: error.message, fields: {} }
  }
}

function bigintText(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value
}

function read<T>(schema: z.ZodType<T>, frames: readonly Uint8Array[], peer: string): T {
  const [head] = frames
  if (head === undefined) throw protocolError(peer, 'a message without frames')
  let value: unknown
  try {
    value = unpack(head)
  } catch (error) {
    throw protocolError(peer, 'a frame that is not MessagePack', error)
  }
  let result: z.ZodSafeParseResult<T>
  try {
    result = schema.safeParse(value)
  } catch (error) {
    // Nested too deeply to iterate over.
    throw protocolError(peer, 'a message that cannot be checked', error)
  }
  if (result.success) return result.data
  const { field, message } = firstIssue(result.error)
  throw protocolError(peer, `field ${field || '(all)'}: ${message}`)
}
