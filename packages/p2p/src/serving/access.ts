import { CkptError, type AccessPoint, type RankAccess } from '@ckpt/contract'
import { z } from 'zod'
import { SECRET_VARIABLE, secretOf } from './endpoints.ts'

const text = z.string().max(1024)
const detail = z.union([text, z.number(), z.boolean(), z.array(text).max(256), z.array(z.number()).max(256)])

const pointSchema = z.object({
  endpoint: z.object({
    kind: z.enum(['tcp', 'rdma', 'ucx']),
    protocol: z.int().nonnegative(),
    id: z.string().regex(/^[0-9a-f]{32}$/),
    addresses: z.array(text).min(1).max(256),
    nics: z.array(text).max(256),
    details: z.record(text, detail).optional(),
  }),
  regions: z.array(z.object({ key: text.min(1), bytes: z.int().nonnegative() })),
  generation: z.int().positive().optional(),
  /** The secret itself, or the name of the environment variable that holds it. */
  secret: z.union([z.object({ value: text.min(16) }), z.object({ variable: z.literal(SECRET_VARIABLE) })]),
})

/** Access to ranks in the format of metas. */
export const accessSchema = z.array(z.object({ rank: z.int().nonnegative(), points: z.array(pointSchema).max(8) }))

type StoredAccess = z.infer<typeof accessSchema>

/** Converts access data for metas that others read: a secret from the environment is named, not written. */
export function storeAccess(access: readonly RankAccess[], environment: NodeJS.ProcessEnv): StoredAccess {
  const shared = secretOf(environment)
  return access.map(({ rank, points }) => ({
    rank,
    points: points.map(({ endpoint, regions, generation, secret }) => ({
      endpoint: { ...endpoint, addresses: [...endpoint.addresses], nics: [...endpoint.nics] },
      regions: [...regions],
      ...(generation !== undefined && { generation }),
      secret: secret === shared ? { variable: SECRET_VARIABLE } : { value: secret },
    })) as StoredAccess[number]['points'],
  }))
}

/** Restores the data of {@link storeAccess}. @throws CkptError `METAS_MALFORMED` if the environment lacks a named secret. */
export function restoreAccess(stored: StoredAccess, environment: NodeJS.ProcessEnv, file: string): RankAccess[] {
  return stored.map(({ rank, points }) => ({
    rank,
    points: points.map(({ endpoint, regions, generation, secret }): AccessPoint => {
      const value = 'value' in secret ? secret.value : secretOf(environment)
      if (value === undefined) {
        throw new CkptError('METAS_MALFORMED', `${file} needs the value of ${SECRET_VARIABLE} from where it was written`, {
          fields: { file, field: SECRET_VARIABLE },
        })
      }
      const { details, ...rest } = endpoint
      return {
        endpoint: { ...rest, ...(details && { details }) },
        regions,
        ...(generation !== undefined && { generation }),
        secret: value,
      }
    }),
  }))
}

/** Returns true if it contains any secret. */
export function holdsSecret(stored: StoredAccess): boolean {
  return stored.some(({ points }) => points.some(({ secret }) => 'value' in secret))
}
