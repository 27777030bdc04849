import { cpSync } from 'node:fs'
import { join } from 'node:path'
import type { GeneratedCheckpoint } from './generate.ts'

/** A checkpoint outside of /dev/shm, which hosts do not share. */
export type CopiedCheckpoint = Pick<GeneratedCheckpoint, 'directory' | 'files' | 'bytes'>

/** Copies a checkpoint to a new directory. */
export function copyCheckpoint(checkpoint: GeneratedCheckpoint, directory: string): CopiedCheckpoint {
  cpSync(checkpoint.directory, directory, { recursive: true })
  const files = checkpoint.files.map((file) => join(directory, file.slice(checkpoint.directory.length + 1)))
  return { directory, files, bytes: checkpoint.bytes }
}
