import { CkptError, DTYPES, type DType, type RingHandle, type RingTensor } from '@ckpt/contract'
import { Packr, Unpackr } from 'msgpackr'
import { z } from 'zod'

/** Version of the worker protocol that this package speaks (docs/worker-protocol.md). */
export const WORKER_PROTOCOL = 1

const count = z.number().int().nonnegative()
const sequence = { seq: count, epoch: count }

const helloSchema = z.object({
  type: z.literal('hello'),
  protocol: z.number().int(),
  token: z.string(),
  pid: count,
  engine: z.string(),
  device: z.string(),
  // The worker's name for the parameters it has, new whenever they change but by loading; workers without one are sent everything.
  state: z.string().max(128).optional(),
})

const okSchema = z.object({ type: z.literal('ok'), ...sequence, reloadMs: z.number().nonnegative().optional() })

const errorSchema = z.object({
  type: z.literal('error'),
  ...sequence,
  error: z.object({ type: z.string(), message: z.string(), traceback: z.string(), tensor: z.string().optional() }),
})

const fromWorker = z.discriminatedUnion('type', [helloSchema, okSchema, errorSchema])

const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'expected bytes')

const ringSchema: z.ZodType<RingHandle> = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('shm'), name: z.string().regex(/^[\w.-]+$/), offset: count, bytes: count }),
  z.object({ kind: z.literal('cuda'), handle: bytes, offset: count, bytes: count, deviceUuid: z.string() }),
])

const tensorSchema = z.tuple([
  z.string(),
  z.enum(DTYPES as [DType, ...DType[]]),
  z.array(count),
  count,
  count,
  z.union([bytes.refine((value) => value.byteLength === 8, 'expected 8 bytes'), z.null()]),
])

const fromRank = z.discriminatedUnion('type', [
  z.object({ type: z.literal('attach'), ...sequence, token: z.string(), ring: ringSchema, tensors: count, bytes: count }),
  z.object({ type: z.literal('bucket'), ...sequence, bucket: count, tensors: z.array(tensorSchema) }),
  z.object({ type: z.literal('release'), ...sequence }),
  z.object({ type: z.literal('commit'), ...sequence, version: z.string() }),
  z.object({ type: z.literal('abort'), ...sequence, reason: z.string() }),
  // The answer to a greeting that is refused; nothing follows it.
  z.object({ type: z.literal('error'), ...sequence, error: z.object({ type: z.string(), message: z.string() }) }),
])

/** A message a worker sends. */
export type WorkerMessage = z.infer<typeof fromWorker>
/** A message a rank sends. */
export type RankMessage = z.infer<typeof fromRank>
/** A rank's message before its sequence number and epoch are known. */
export type RankRequest = RankMessage extends infer M ? (M extends RankMessage ? Omit<M, 'seq' | 'epoch'> : never) : never
/** A tensor of a `bucket` message: name, dtype, shape, offset, bytes, digest. */
export type TensorFrame = z.infer<typeof tensorSchema>

const packr = new Packr({ useRecords: false, variableMapSize: true })
// Plain decoding only: no records, no extensions beyond the format's own, 64-bit integers as BigInt (rejected by the schemas).
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'bigint' })

/** One frame that holds `message`. The buffer is the caller's alone: ZeroMQ may send it later without a copy. */
export function encodeMessage(message: WorkerMessage | RankMessage): Buffer {
  return Buffer.from(packr.pack(message))
}

/** The worker's message in `frame`. @throws CkptError `ENGINE_PROTOCOL` that names the offending field. */
export function decodeWorkerMessage(frame: Uint8Array, peer: string): WorkerMessage {
  return decode(fromWorker, frame, peer)
}

/** The rank's message in `frame`. @throws CkptError `ENGINE_PROTOCOL` that names the offending field. */
export function decodeRankMessage(frame: Uint8Array, peer: string): RankMessage {
  return decode(fromRank, frame, peer)
}

function decode<T>(schema: z.ZodType<T>, frame: Uint8Array, peer: string): T {
  let value: unknown
  try {
    value = unpackr.unpack(frame)
  } catch (error) {
    throw new CkptError('ENGINE_PROTOCOL', `${peer} sent a frame of ${frame.byteLength} bytes that is not MessagePack`, {
      cause: error,
      fields: { peer },
    })
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  const field = issue.path.join('.') || 'type'
  throw new CkptError('ENGINE_PROTOCOL', `${peer} sent a malformed message: ${field}: ${issue.message}`, {
    fields: { peer, field },
  })
}

/** `tensor` as it stands in a `bucket` message. */
export function tensorFrame(tensor: RingTensor): TensorFrame {
  let digest: Uint8Array | null = null
  if (tensor.digest !== undefined) {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(tensor.digest)
    digest = bytes
  }
  return [tensor.name, tensor.dtype, [...tensor.shape], tensor.offset, tensor.bytes, digest]
}

/** The tensor that a `bucket` message describes. */
export function ringTensor([name, dtype, shape, offset, bytes, digest]: TensorFrame): RingTensor {
  const value = digest && Buffer.from(digest.buffer, digest.byteOffset, 8).readBigUInt64LE()
  return { name, dtype, shape, offset, bytes, ...(value !== null && { digest: value }) }
}
