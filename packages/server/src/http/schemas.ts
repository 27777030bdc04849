import { z } from 'zod'

/** Body of `POST /v1/checkpoints/{name}/files`. */
export const registerRequest = z.object({
  files: z.array(z.string().min(1)).describe('safetensors files on the machine of this rank'),
})

/** Body of `POST /v1/checkpoints/{name}/update`; the fields are checkpoint-engine's. */
export const updateRequest = z.object({
  ranks: z.array(z.int().nonnegative()).default([]).describe('ranks to update point to point; none: broadcast to all'),
  update_url: z
    .url()
    .nullish()
    .describe('endpoint of the engine that this rank calls; absent on ranks whose engine a different rank calls'),
  inference_group_ranks: z
    .array(z.int().nonnegative())
    .default([])
    .describe('ranks whose workers belong to the engine at update_url; none: all'),
  timeout: z.number().positive().default(300).describe('seconds'),
  uds: z.string().min(1).nullish().describe('unix socket to reach update_url through'),
})

export type UpdateRequest = z.infer<typeof updateRequest>

export const checkpointParams = z.object({ name: z.string().min(1).max(512) })
export const unregisterQuery = z.object({
  force: z.stringbool().default(false).describe('also while it is in use, together with its shared pool'),
})

export const unregistered = z.object({ unregistered: z.boolean() })
export const gathered = z.object({ tensors: z.number(), bytes: z.number(), ranks: z.number(), digest: z.string() })
export const registered = z.object({ files: z.number(), milliseconds: z.number() })
export const updated = z.object({
  version: z.string(),
  tensors: z.number(),
  bytes: z.number(),
  buckets: z.number(),
  how: z.string(),
  verified: z.enum(['bytes', 'sources', 'none']),
  milliseconds: z.number(),
  steps: z.record(z.string(), z.number()),
})

/** `detail` has FastAPI's form: text, or a list of places if the body is malformed. */
export const failed = z.object({
  detail: z.union([
    z.string(),
    z.array(z.object({ loc: z.array(z.union([z.string(), z.number()])), msg: z.string(), type: z.string() })),
  ]),
  error: z.object({ code: z.string(), message: z.string(), retryable: z.boolean() }).loose(),
})
