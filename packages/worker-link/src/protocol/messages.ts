import {
  CkptError,
  DTYPES,
  checkMessagePack,
  type DType,
  type Recording,
  type RingHandle,
  type RingTensor,
  type StorageHandle,
} from '@ckpt/contract'
import { Packr, Unpackr } from 'msgpackr'
import { z } from 'zod'
import { firstIssue } from '@ckpt/utils'

/** Version of the worker protocol of this package (docs/worker-protocol.md). */
export const WORKER_PROTOCOL = 3
/** Oldest version that a rank still accepts from a worker. */
export const OLDEST_WORKER_PROTOCOL = 1

const count = z.number().int().nonnegative()
const sequence = { seq: count, epoch: count }

const helloSchema = z.object({
  type: z.literal('hello'),
  protocol: z.number().int(),
  token: z.string(),
  pid: count,
  // Mark with which the rank can check that `pid` means this process in its own namespace.
  process: z.string().max(128).nullish(),
  engine: z.string(),
  device: z.string(),
  // The worker's name for its parameters, new whenever they change except by loading; workers without one receive everything.
  state: z.string().max(128).optional(),
  routes: z.string().nullish(),
  rehearses: z.boolean().optional(),
})

const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'expected bytes')
/** Some packers send whole numbers over 2^32 as 64-bit integers. */
const whole = z.union([count, z.bigint().nonnegative().max(BigInt(Number.MAX_SAFE_INTEGER)).transform(Number)])
/** A number of up to 64 bits as text. */
const decimal = z.string().regex(/^\d{1,20}$/)
const dtype = z.enum(DTYPES as [DType, ...DType[]])

/** Name, dtype and shape of a tensor. */
const formSchema = z.tuple([z.string(), dtype, z.array(whole)])

/** A recording in the answer to `routes`. */
export const recordingSchema: z.ZodType<Recording> = z.object({
  id: z.string(),
  tensors: z.array(formSchema.transform(([name, type, shape]) => ({ name, dtype: type, shape }))),
  storages: z.array(whole),
  parameters: z.array(
    z
      .tuple([z.string(), whole, whole, whole])
      .transform(([name, storage, offset, size]) => ({ name, storage, offset, bytes: size })),
  ),
  routes: z.array(
    z
      .tuple([whole, whole, whole, whole, whole, z.array(whole)])
      .transform(([tensor, storage, sourceOffset, destinationOffset, rowBytes, dims]) => ({
        tensor,
        storage,
        sourceOffset,
        destinationOffset,
        rowBytes,
        dims,
      })),
  ),
  opaque: z.array(z.tuple([whole, z.string()]).transform(([tensor, reason]) => ({ tensor, reason }))),
  rehearsed: z.boolean().optional(),
})

/** A storage's handle. */
export const storageSchema: z.ZodType<StorageHandle> = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('file'),
    path: z.string().max(4096),
    offset: whole,
    bytes: whole,
    device: decimal.optional(),
    inode: decimal.optional(),
    size: whole.optional(),
  }),
  z.object({ kind: z.literal('cuda'), handle: bytes, offset: whole, bytes: whole, deviceUuid: z.string() }),
])

const okSchema = z.object({
  type: z.literal('ok'),
  ...sequence,
  reloadMs: z.number().nonnegative().optional(),
  routes: recordingSchema.nullish(),
  reason: z.string().optional(),
  storages: z.array(storageSchema).optional(),
  replays: count.optional(),
  sums: bytes.refine((value) => value.byteLength % 8 === 0, 'expected 8 bytes a route').optional(),
})

const errorSchema = z.object({
  type: z.literal('error'),
  ...sequence,
  error: z.object({ type: z.string(), message: z.string(), traceback: z.string(), tensor: z.string().optional() }),
})

const fromWorker = z.discriminatedUnion('type', [helloSchema, okSchema, errorSchema])

const digestBytes = bytes.refine((value) => value.byteLength === 8, 'expected 8 bytes')

const ringSchema: z.ZodType<RingHandle> = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('shm'),
    name: z.string().regex(/^[\w.-]+$/),
    offset: count,
    bytes: count,
    device: decimal.optional(),
    inode: decimal.optional(),
    size: count.optional(),
  }),
  z.object({ kind: z.literal('cuda'), handle: bytes, offset: count, bytes: count, deviceUuid: z.string() }),
])

const tensorSchema = z.tuple([z.string(), dtype, z.array(count), count, count, z.union([digestBytes, z.null()])])

const fromRank = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('attach'),
    ...sequence,
    token: z.string(),
    ring: ringSchema.nullable(),
    tensors: count,
    bytes: count,
    record: z.boolean().optional(),
  }),
  z.object({ type: z.literal('bucket'), ...sequence, bucket: count, tensors: z.array(tensorSchema) }),
  z.object({ type: z.literal('routes'), ...sequence, token: z.string() }),
  z.object({ type: z.literal('storages'), ...sequence, token: z.string() }),
  z.object({ type: z.literal('rehearse'), ...sequence, token: z.string(), tensors: z.array(formSchema) }),
  z.object({ type: z.literal('leave'), ...sequence }),
  z.object({
    type: z.literal('direct'),
    ...sequence,
    routes: z.string(),
    replay: z.boolean().optional(),
    check: z.array(z.string()).optional(),
  }),
  z.object({ type: z.literal('release'), ...sequence }),
  z.object({ type: z.literal('sums'), ...sequence, routes: z.string() }),
  z.object({ type: z.literal('commit'), ...sequence, version: z.string(), digest: z.string().optional() }),
  z.object({ type: z.literal('abort'), ...sequence, reason: z.string() }),
  // Answer to a refused greeting; nothing follows it.
  z.object({ type: z.literal('error'), ...sequence, error: z.object({ type: z.string(), message: z.string() }) }),
])

/** Fields of each message, by its `type`, from the schemas: for tests that must cover all. */
export const MESSAGE_FIELDS = { worker: fieldsOf(fromWorker), rank: fieldsOf(fromRank) }

function fieldsOf({ options }: { options: readonly z.ZodObject<{ type: z.ZodLiteral<string> }>[] }): Record<string, string[]> {
  return Object.fromEntries(options.map(({ shape }) => [shape.type.value, Object.keys(shape)]))
}

/** A message a worker sends. */
export type WorkerMessage = z.infer<typeof fromWorker>
/** A message a rank sends. */
export type RankMessage = z.infer<typeof fromRank>
/** The answer to `routes` in the form that a worker writes: with {@link recordingFrame}. */
export type RoutesAnswer = { type: 'ok'; seq: number; epoch: number; routes: object | null; reason?: string }
/** A rank's message before its sequence number and epoch are known. */
export type RankRequest = RankMessage extends infer M ? (M extends RankMessage ? Omit<M, 'seq' | 'epoch'> : never) : never
/** A tensor of a `bucket` message: name, dtype, shape, offset, bytes, digest. */
export type TensorFrame = z.infer<typeof tensorSchema>

const packr = new Packr({ useRecords: false, variableMapSize: true })
// Plain decoding only: no records, no extensions beyond the format's own, 64-bit integers as BigInt (rejected by the schemas).
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'bigint' })

/** Encodes `message` as one frame. The buffer belongs to the caller alone: ZeroMQ may send it later without a copy. */
export function encodeMessage(message: WorkerMessage | RankMessage | RoutesAnswer): Buffer {
  return Buffer.from(packr.pack(message))
}

/** Decodes the worker's message in `frame`. @throws CkptError `ENGINE_PROTOCOL` that names the offending field. */
export function decodeWorkerMessage(frame: Uint8Array, peer: string): WorkerMessage {
  return decode(fromWorker, frame, peer)
}

/** Decodes the rank's message in `frame`. @throws CkptError `ENGINE_PROTOCOL` that names the offending field. */
export function decodeRankMessage(frame: Uint8Array, peer: string): RankMessage {
  return decode(fromRank, frame, peer)
}

function decode<T>(schema: z.ZodType<T>, frame: Uint8Array, peer: string): T {
  let value: unknown
  try {
    checkMessagePack(frame)
    value = unpackr.unpack(frame)
  } catch (error) {
    throw new CkptError('ENGINE_PROTOCOL', `${peer} sent a frame of ${frame.byteLength} bytes that is not MessagePack`, {
      cause: error,
      fields: { peer },
    })
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const { field: named, message } = firstIssue(parsed.error)
  const field = named || 'type'
  throw new CkptError('ENGINE_PROTOCOL', `${peer} sent a malformed message: ${field}: ${message}`, { fields: { peer, field } })
}

/** Returns the form that {@link recordingSchema} reads. */
export function recordingFrame(recording: Recording): object {
  return {
    id: recording.id,
    tensors: recording.tensors.map(({ name, dtype: type, shape }) => [name, type, shape]),
    storages: recording.storages,
    parameters: recording.parameters.map(({ name, storage, offset, bytes: size }) => [name, storage, offset, size]),
    routes: recording.routes.map((route) => [
      route.tensor,
      route.storage,
      route.sourceOffset,
      route.destinationOffset,
      route.rowBytes,
      route.dims,
    ]),
    opaque: recording.opaque.map(({ tensor, reason }) => [tensor, reason]),
    ...(recording.rehearsed && { rehearsed: true }),
  }
}

/** Returns 8 bytes, little-endian. */
export function digestFrame(digest: bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(digest)
  return bytes
}

/** Returns `tensor` in the form of a `bucket` message. */
export function tensorFrame(tensor: RingTensor): TensorFrame {
  const digest = tensor.digest === undefined ? null : digestFrame(tensor.digest)
  return [tensor.name, tensor.dtype, [...tensor.shape], tensor.offset, tensor.bytes, digest]
}

/** Returns the tensor that a `bucket` message describes. */
export function ringTensor([name, dtype, shape, offset, bytes, digest]: TensorFrame): RingTensor {
  const value = digest && Buffer.from(digest.buffer, digest.byteOffset, 8).readBigUInt64LE()
  return { name, dtype, shape, offset, bytes, ...(value !== null && { digest: value }) }
}
