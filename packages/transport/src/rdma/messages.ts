import type { RdmaEndpoint } from '@ckpt/rdma-core-bindings'
import { z } from 'zod'
import { closed, failed, resolve, resolvedTo, whole, type Dialect } from '../bootstrap/messages.ts'

/** Version of the following messages. */
export const RDMA_PROTOCOL = 2
const MOST_LANES = 1024

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

const request = z.discriminatedUnion('type', [
  z.object({ type: z.literal('open'), seq: whole, lanes: z.array(lane).min(1).max(MOST_LANES) }),
  resolve,
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

const reply = z.discriminatedUnion('type', [
  z.object({ type: z.literal('opened'), seq: whole, endpoints: z.array(endpoint) }),
  resolvedTo(region),
  failed,
  closed,
])
export type Reply = z.infer<typeof reply>

/** What two RDMA endpoints say to each other. */
export const DIALECT: Dialect<Request, Reply> = {
  name: 'rdma',
  protocol: RDMA_PROTOCOL,
  server: 'an RDMA endpoint',
  request,
  reply,
}
