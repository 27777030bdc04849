import { z } from 'zod'

const MOST_KEYS = 65_536

export const whole = z.number().int().nonnegative()
const id = z.string().regex(/^[0-9a-f]{32}$/)

/** First message of either side, before anything is proven: its identity, and a random number for this connection. */
export const hello = z.object({ magic: z.string(), protocol: whole, id, nonce: id })

/** Request of every kind of endpoint: where the regions of these keys are. */
export const resolve = z.object({ type: z.literal('resolve'), seq: whole, keys: z.array(z.string()).max(MOST_KEYS) })

/** Its answer. null: an unknown key; `closed`: one whose region has been closed. */
export const resolvedTo = <Region extends z.ZodType>(region: Region) =>
  z.object({ type: z.literal('resolved'), seq: whole, regions: z.array(z.union([region, z.literal('closed'), z.null()])) })

/** Answer to a request that failed. */
export const failed = z.object({ type: z.literal('failed'), seq: whole, message: z.string() })

/** Notification of keys that are no longer valid. */
export const closed = z.object({ type: z.literal('closed'), keys: z.array(z.string()) })

/** Requests of the connecting side; every request has one answer with its `seq`. */
export type Asked = { readonly seq: number } & (
  { readonly type: 'resolve'; readonly keys: string[] } | { readonly type: string }
)

/** Answers and notifications of the serving side. */
export type Told = z.infer<typeof failed> | z.infer<typeof closed> | { readonly type: string; readonly seq: number }

/** A message without its number. */
export type Unnumbered<T> = T extends unknown ? Omit<T, 'seq'> : never

/** What two endpoints of a kind say to each other. */
export interface Dialect<Question extends Asked, Answer extends Told> {
  readonly name: 'rdma' | 'ucx'
  /** Version of its messages. */
  readonly protocol: number
  /** What such a server is, for errors. */
  readonly server: string
  readonly request: z.ZodType<Question>
  readonly reply: z.ZodType<Answer>
}

/** Returns what the keys of a session are bound to besides its secret. */
export function bindingOf({ name }: Pick<Dialect<Asked, Told>, 'name'>, protocol: number, id: string): string {
  return `ckpt ${name} ${protocol}|${id}`
}
