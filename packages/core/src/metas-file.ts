import { constants } from 'node:fs'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { CkptError, type Manifest, type RankMetas } from '@ckpt/contract'
import { decodeRankMetas, encodeRankMetas } from '@ckpt/rendezvous'
import { z } from 'zod'
import { manifestOf } from './manifest.ts'

const fileSchema = z.object({
  format: z.literal('ckpt-metas'),
  version: z.literal(1),
  checkpoint: z.string().min(1),
  digest: z.string(),
  ranks: z.array(z.object({ rank: z.number().int().nonnegative(), digest: z.string(), metas: z.base64() })).min(1),
})

/** Writes a manifest as versioned JSON (the ranks' metas in their compact encoding, base64). The file appears whole or not at all. */
export async function writeMetas(path: string, manifest: Manifest): Promise<void> {
  const ranks = manifest.ranks.map((metas) => {
    const { digest, payload } = encodeRankMetas(metas)
    return { rank: metas.rank, digest, metas: Buffer.from(payload).toString('base64') }
  })
  const content = { format: 'ckpt-metas', version: 1, checkpoint: manifest.checkpoint, digest: manifest.digest, ranks }
  const temporary = `${path}.${process.pid}.tmp`
  await writeFile(temporary, `${JSON.stringify(content)}\n`, { mode: 0o600 })
  await rename(temporary, path)
}

/** The manifest that {@link writeMetas} wrote. @throws CkptError `METAS_MALFORMED` naming the file and field. */
export async function readMetas(path: string): Promise<Manifest> {
  let text: string
  try {
    // Not waiting for the other end of a pipe.
    text = await readFile(path, { encoding: 'utf8', flag: constants.O_RDONLY | constants.O_NONBLOCK })
  } catch (error) {
    throw CkptError.from(error, 'METAS_MALFORMED', `cannot read metas ${path}`, { file: path })
  }
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch (error) {
    throw new CkptError('METAS_MALFORMED', `${path} is not JSON`, { cause: error, fields: { file: path } })
  }
  const parsed = fileSchema.safeParse(content)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    const field = issue.path.join('.')
    throw new CkptError('METAS_MALFORMED', `${path}: ${field}: ${issue.message}`, { fields: { file: path, field } })
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
  return manifest
}
