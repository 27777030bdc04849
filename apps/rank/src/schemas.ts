import { z } from 'zod'

const count = z.int().nonnegative()
const milliseconds = z.number().positive()
/** For one rank, or a list by rank. */
const byRank = z.union([z.string(), z.array(z.string())])
const tls = z.strictObject({
  ca: z.string().optional(),
  cert: z.string().optional(),
  key: z.string().optional(),
  servername: z.string().optional(),
})
const engineKey = z.union([z.string(), z.literal(false)])

const vllmSchema = z.strictObject({
  kind: z.literal('vllm'),
  url: byRank.optional(),
  socketPath: byRank.optional(),
  parallelSize: z.number(),
  apiKey: z.string().optional(),
  engineKey: engineKey.optional(),
  tls: tls.optional(),
  headers: z.record(z.string(), z.string()).optional(),
  pause: z.union([z.enum(['keep', 'wait', 'abort']), z.literal(false)]).optional(),
  resetPrefixCache: z.boolean().optional(),
  drafter: z.enum(['auto', 'load', 'skip']).optional(),
  complete: z.boolean().optional(),
  via: z.enum(['extension', 'weight-transfer', 'checkpoint-engine']).optional(),
})

const sglangSchema = z.strictObject({
  kind: z.literal('sglang'),
  url: byRank,
  socketPath: byRank.optional(),
  parallelSize: z.number(),
  protocol: z.enum(['checkpoint-engine', 'ckpt']).optional(),
  apiKey: z.string().optional(),
  engineKey: engineKey.optional(),
  tls: tls.omit({ servername: true }).optional(),
  pause: z.enum(['abort', 'retract', 'in_place', 'none']).optional(),
  flushCache: z.boolean().optional(),
})

const controlSchema = z.strictObject({ kind: z.literal('control'), socket: byRank })

/** An engine that the client calls itself. */
const clientSchema = z.strictObject({ kind: z.literal('client'), protocol: z.enum(['ckpt', 'checkpoint-engine']) })

export const engineSchema = z.discriminatedUnion('kind', [vllmSchema, sglangSchema, controlSchema, clientSchema])
/** Description of an engine. */
export type EngineDescription = z.infer<typeof engineSchema>

export const strategySchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('auto') }),
  z.strictObject({ kind: z.literal('broadcast') }),
  z.strictObject({ kind: z.literal('direct'), required: z.boolean().optional(), checkEvery: z.number().optional() }),
  z.strictObject({ kind: z.literal('p2p'), ranks: z.array(count), keep: z.boolean().optional() }),
])
/** Description of a strategy. */
export type StrategyDescription = z.infer<typeof strategySchema>

const memorySchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('shared'),
    name: z.string(),
    bytes: count,
    device: z.string().optional(),
    inode: z.string().optional(),
  }),
  /** Memory of the client's own, from which it writes to this process's. */
  z.object({ kind: z.literal('client'), bytes: count }),
  z.object({ kind: z.literal('cuda'), handle: z.string(), deviceUuid: z.string(), bytes: count }),
])

/** Tensors in memory of the client's process, in the form of docs/trainers.md, "The protocol". */
export const offerSchema = z.strictObject({
  memories: z.array(memorySchema),
  tensors: z.array(
    z
      .tuple([z.string(), z.string(), z.array(count), count, count, count])
      .describe('name, dtype, shape, memory, offset, bytes'),
  ),
})
export type Offer = z.infer<typeof offerSchema>

const sourceSchema = z.union([
  z.strictObject({ files: z.array(z.string()), root: z.string().optional() }),
  z.strictObject({ directory: z.string() }),
  z.strictObject({ offer: offerSchema }),
])

/** Arguments of the calls, by verb. */
export const schemas = {
  create: z.strictObject({
    rank: z.number().optional(),
    worldSize: z.number().optional(),
    rendezvous: z.string().optional(),
    token: z.string().optional(),
    insecure: z.boolean().optional(),
    elastic: z.boolean().optional(),
    device: z.string(),
    keepAlive: z.boolean().optional(),
    shareMemory: z.boolean().optional(),
    timeoutMs: milliseconds.optional(),
    heartbeatMs: z.number().optional(),
    heartbeatTimeoutMs: z.number().optional(),
    threads: z.number().optional(),
    serve: z.literal(false).optional(),
  }),
  register: z.strictObject({
    name: z.string(),
    source: sourceSchema,
    pool: z.enum(['private', 'shared']).optional(),
    inPlace: z.boolean().optional(),
    removeFiles: z.boolean().optional(),
    share: z.strictObject({ index: count, count: z.int().positive() }).optional(),
    digests: z.boolean().optional(),
    timeoutMs: milliseconds.optional(),
  }),
  unregister: z.strictObject({ name: z.string(), force: z.boolean().optional() }),
  releasePool: z.strictObject({ force: z.boolean().optional() }),
  gatherMetas: z.strictObject({
    name: z.string(),
    digests: z.boolean().optional(),
    engine: engineSchema.optional(),
    timeoutMs: milliseconds.optional(),
  }),
  prepare: z.strictObject({
    name: z.string(),
    engine: engineSchema,
    strategy: strategySchema.optional(),
    verify: z.enum(['bytes', 'sources', 'none']).optional(),
    ringBytes: count.optional(),
    timeoutMs: milliseconds.optional(),
  }),
  getMetas: z.strictObject({ name: z.string() }),
  saveMetas: z.strictObject({ name: z.string(), path: z.string() }),
  loadMetas: z.strictObject({ path: z.string() }),
  publishMetas: z.strictObject({ name: z.string() }),
  fetchMetas: z.strictObject({
    name: z.string(),
    address: z.string(),
    token: z.string().optional(),
    run: z.string().optional(),
    timeoutMs: milliseconds.optional(),
  }),
  update: z.strictObject({
    name: z.string(),
    engine: engineSchema,
    strategy: strategySchema.optional(),
    version: z.string().optional(),
    verify: z.enum(['bytes', 'sources', 'none']).optional(),
    ringBytes: count.optional(),
    bucketBytes: count.optional(),
    chunkBytes: count.optional(),
    keepAlive: z.boolean().optional(),
    retry: z.number().optional(),
    rollback: z.boolean().optional(),
    timeoutMs: milliseconds.optional(),
  }),
  engineStates: z.strictObject({}),
  health: z.strictObject({}),
  close: z.strictObject({}),
}

/** Names of the calls. */
export type Verb = keyof typeof schemas
export type Arguments<V extends Verb> = z.infer<(typeof schemas)[V]>
