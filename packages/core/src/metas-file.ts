import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { CkptError, type Manifest, type RankAccess, type RankMetas } from '@ckpt/contract'
import { decodeRankMetas, encodeRankMetas } from '@ckpt/rendezvous'
import { z } from 'zod'
import { manifestOf } from './manifest.ts'
import { accessSchema, holdsSecret, restoreAccess, storeAccess } from '@ckpt/p2p'
import { firstIssue, writeWholeFile } from '@ckpt/utils'

/** Largest file of saved metas, in bytes: several times that of a million tensors on a thousand ranks. */
const MAX_FILE_BYTES = 512 * 2 ** 20

const fileSchema = z.object({
  format: z.literal('ckpt-metas'),
  version: z.literal(1),
  checkpoint: z.string().min(1),
  digest: z.string(),
  ranks: z.array(z.object({ rank: z.number().int().nonnegative(), digest: z.string(), metas: z.base64() })).min(1),
  access: accessSchema.default([]),
})

/** Data with which a new instance joins: the manifest, and access to its ranks. */
export interface Metas {
  readonly manifest: Manifest
  readonly access: readonly RankAccess[]
}

/** Encodes metas as versioned JSON text: the ranks' metas in their compact encoding, base64, and access to the ranks. */
export function encodeMetas({ manifest, access }: Metas): string {
  const ranks = manifest.ranks.map((metas) => {
    const { digest, payload } = encodeRankMetas(metas)
    return { rank: metas.rank, digest, metas: Buffer.from(payload).toString('base64') }
  })
  const { checkpoint, digest } = manifest
  const content = { format: 'ckpt-metas', version: 1, checkpoint, digest, ranks, access: storeAccess(access, process.env) }
  return `${JSON.stringify(content)}\n`
}

/**
 * Writes {@link encodeMetas} to a file that only its owner may read, because it may hold the secrets of endpoints. The file
 * appears as a whole or not at all. @throws CkptError `NATIVE_FAILURE` naming the file.
 */
export async function writeMetas(path: string, metas: Metas): Promise<void> {
  await writeWholeFile(path, encodeMetas(metas))
}

/**
 * Reads a file of {@link writeMetas}. @throws CkptError `METAS_MALFORMED` naming the file and field, also if others than its
 * owner may read a file with secrets, and for a file that is too large or not regular.
 */
export async function readMetas(path: string): Promise<Metas> {
  let text: string
  let mode: number
  try {
    // Does not wait for the other end of a pipe.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const stat = await file.stat()
    if (!stat.isFile()) throw new Error('it is not a regular file')
    if (stat.size > MAX_FILE_BYTES) throw new Error(`it holds ${stat.size} bytes, at most ${MAX_FILE_BYTES} are read`)
    text = await file.readFile('utf8')
    mode = stat.mode
  } catch (error) {
    throw CkptError.from(error, 'METAS_MALFORMED', `cannot read metas ${path}`, { file: path })
  }
  return decodeMetas(text, path, (mode & 0o077) === 0)
}

/**
 * Decodes the text of {@link encodeMetas}. `path` names it in errors; `isPrivate`: only its owner can have read it.
 *
 * @throws CkptError `METAS_MALFORMED` naming the field.
 */
export function decodeMetas(text: string, path: string, isPrivate: boolean): Metas {
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch (error) {
    throw new CkptError('METAS_MALFORMED', `${path} is not JSON`, { cause: error, fields: { file: path } })
  }
  const parsed = fileSchema.safeParse(content)
  if (!parsed.success) {
    const { field, message } = firstIssue(parsed.error)
    throw new CkptError('METAS_MALFORMED', `${path}: ${field}: ${message}`, { fields: { file: path, field } })
  }
  const ranks: RankMetas[] = parsed.data.ranks.map(({ rank, digest, metas }) => {
    const decoded = decodeRankMetas(Buffer.from(metas, 'base64'), digest)
    if (decoded.rank === rank) return decoded
    throw new CkptError('METAS_MALFORMED', `${path}: metas listed for rank ${rank} are rank ${decoded.rank}'s`, {
      fields: { file: path },
    })
  })
  const manifest = manifestOf(parsed.data.checkpoint, ranks)
  if (manifest.digest !== parsed.data.digest) {
    throw new CkptError('METAS_MALFORMED', `${path}: digest does not match its content`, {
      fields: { file: path, field: 'digest' },
    })
  }
  const { access } = parsed.data
  if (!isPrivate && holdsSecret(access)) {
    throw new CkptError('METAS_MALFORMED', `${path} holds secrets, but others may read it: chmod 600 ${path}`, {
      fields: { file: path, field: 'access' },
    })
  }
  return { manifest, access: restoreAccess(access, process.env, path) }
}
