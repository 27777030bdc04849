import { CkptError } from '@ckpt/contract'
import { z } from 'zod'
import { firstIssue } from '@ckpt/utils'

const metricsSchema = z.object({
  CKPT_METRICS_PORT: z.coerce.number().int().min(0).max(65_535).optional(),
  CKPT_METRICS_HOST: z.string().min(1).default('127.0.0.1'),
})

/**
 * Returns the address of the metrics server; undefined if there is none. @throws CkptError `INVALID_ARGUMENT` naming the
 * variable.
 */
export function metricsAddress(
  port: number | undefined,
  environment: NodeJS.ProcessEnv,
): { port: number; host: string } | undefined {
  const parsed = metricsSchema.safeParse(environment)
  if (!parsed.success) {
    const { field, message } = firstIssue(parsed.error)
    throw new CkptError('INVALID_ARGUMENT', `${field}=${environment[field]}: ${message}`, { fields: { field } })
  }
  const chosen = port ?? parsed.data.CKPT_METRICS_PORT
  return chosen === undefined ? undefined : { port: chosen, host: parsed.data.CKPT_METRICS_HOST }
}
