import { linkSync, mkdtempSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { GeneratedCheckpoint } from '@ckpt/testing'

/** Files of a checkpoint that lie in one directory. */
export type LinkedFiles = Pick<GeneratedCheckpoint, 'directory' | 'files'>

/** Does `work` with hard links to the files, which may be removed meanwhile: checkpoint-engine removes files that it pins in place. */
export async function withLinks<T>(
  { directory, files }: LinkedFiles,
  work: (links: readonly string[]) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(dirname(directory), `${basename(directory)}-links-`))
  try {
    const links = files.map((file) => join(folder, basename(file)))
    files.forEach((file, index) => linkSync(file, links[index]!))
    return await work(links)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Returns a rank's share: the files are divided evenly in order, as users of checkpoint-engine do. */
export function shareOf(files: readonly string[], rank: number, ranks: number): readonly string[] {
  const first = (index: number) => Math.round((files.length * index) / ranks)
  return files.slice(first(rank), first(rank + 1))
}
