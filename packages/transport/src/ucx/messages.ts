import { z } from 'zod'
import { closed, failed, resolve, resolvedTo, whole, type Dialect } from '../bootstrap/messages.ts'

/** Version of the following messages. */
export const UCX_PROTOCOL = 1
const MOST_KEYS = 65_536

const base64 = z.string().regex(/^[0-9A-Za-z+/]*={0,2}$/)

const request = z.discriminatedUnion('type', [
  z.object({ type: z.literal('open'), seq: whole }),
  resolve,
  /** These keys were closed, and the sender's batches no longer use them. */
  z.object({ type: z.literal('released'), seq: whole, keys: z.array(z.string()).max(MOST_KEYS) }),
])
export type Request = z.infer<typeof request>

const region = z.object({
  /** Its start, in decimal, because it may be above 2^53. */
  address: z.string().regex(/^\d{1,20}$/),
  bytes: whole,
  writable: z.boolean(),
  remoteKey: base64,
})
export type ResolvedRegion = z.infer<typeof region>

const reply = z.discriminatedUnion('type', [
  /** Where the worker is, and the version of its UCX: only the same one can be expected to understand it. */
  z.object({ type: z.literal('opened'), seq: whole, address: base64, version: z.string() }),
  z.object({ type: z.literal('noted'), seq: whole }),
  resolvedTo(region),
  failed,
  closed,
])
export type Reply = z.infer<typeof reply>

/** What two UCX endpoints say to each other. */
export const DIALECT: Dialect<Request, Reply> = {
  name: 'ucx',
  protocol: UCX_PROTOCOL,
  server: 'a UCX endpoint',
  request,
  reply,
}
