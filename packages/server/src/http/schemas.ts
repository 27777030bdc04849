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
    .describe("the engine's endpoint that this rank calls; absent on ranks whose engine another rank calls"),
  inference_group_ranks: z
    .array(z.int().nonnegative())
    .default([])
    .describe('ranks whose workers the engine behind update_url has; none: all'),
  timeout: z.number().positive().default(300).describe('seconds'),
  uds: z.string().min(1).nullish().describe('unix socket to reach update_url through'),
})

export type UpdateRequest = z.infer<typeof updateRequest>

export const checkpointParams = z.object({ name: z.string().min(1).max(512) })
export const unregisterQuery = z.object({
  force: z.stringbool().default(false).describe('also while it is in use, and with the shared pool it occupies'),
})

export const unregistered = z.object({ unregistered: z.boolean() })
export const gathered = z.object({ tensors: z.number(), bytes: z.number(), ranks: z.number(), digest: z.string() })
export const registered = z.object({ files: z.number(), milliseconds: z.number() })
export const updated = z.object({
  version: z.string(),
  tensors: z.number(),
  bytes: z.number(),
  buckets: z.number(),
  verified: z.enum(['bytes', 'sources', 'none']),
  milliseconds: z.number(),
  steps: z.record(z.string(), z.number()),
})

/** `detail` is what FastAPI has there: text, or where the body is malformed a list of places. */
export const failed = z.object({
  detail: z.union([
    z.string(),
    z.array(z.object({ loc: z.array(z.union([z.string(), z.number()])), msg: z.string(), type: z.string() })),
  ]),
  error: z.object({ code: z.string(), message: z.string(), retryable: z.boolean() }).loose(),
})
