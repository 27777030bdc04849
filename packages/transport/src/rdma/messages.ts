import type { RdmaEndpoint } from '@ckpt/rdma-core-bindings'
import { z } from 'zod'

/** Version of the following messages. */
export const RDMA_PROTOCOL = 2
const MOST_LANES = 1024
const MOST_KEYS = 65_536

const id = z.string().regex(/^[0-9a-f]{32}$/)
const whole = z.number().int().nonnegative()

/** First message of either side, before anything is proven: its identity, and a random number for this connection. */
export const hello = z.object({ magic: z.literal('ckpt-rdma'), protocol: whole, id, nonce: id })
export type Hello = z.infer<typeof hello>

const endpoint: z.ZodType<RdmaEndpoint> = z.object({
  queuePair: whole,
  packetSequence: whole,
  lid: whole,
  gid: z.string(),
  mtu: whole,
  readsIn: whole,
})

/** A queue pair to connect: the sender's end, and the receiver's NIC at the other one. */
const lane = z.object({ nic: whole, endpoint })

/** Requests of the connecting side; every request has one answer with its `seq`. */
export const request = z.discriminatedUnion('type', [
  z.object({ type: z.literal('open'), seq: whole, lanes: z.array(lane).min(1).max(MOST_LANES) }),
  z.object({ type: z.literal('resolve'), seq: whole, keys: z.array(z.string()).max(MOST_KEYS) }),
])
export type Request = z.infer<typeof request>

const region = z.object({
  /** Its start, in decimal, because it may be above 2^53. */
  address: z.string().regex(/^\d{1,20}$/),
  bytes: whole,
  /** By NIC of the endpoint. */
  remoteKeys: z.array(whole),
})
export type ResolvedRegion = z.infer<typeof region>

/** Answers and notifications of the serving side: keys that are no longer valid. */
export const reply = z.discriminatedUnion('type', [
  z.object({ type: z.literal('opened'), seq: whole, endpoints: z.array(endpoint) }),
  // null: an unknown key; `closed`: one whose region has been closed.
  z.object({ type: z.literal('resolved'), seq: whole, regions: z.array(z.union([region, z.literal('closed'), z.null()])) }),
  z.object({ type: z.literal('failed'), seq: whole, message: z.string() }),
  z.object({ type: z.literal('closed'), keys: z.array(z.string()) }),
])
export type Reply = z.infer<typeof reply>
