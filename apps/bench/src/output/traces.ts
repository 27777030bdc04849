import { basename, format, parse } from 'node:path'
import { writeTrace } from '@ckpt/core'
import type { ReferenceRun } from '../result.ts'

/**
 * Writes the last timed update of each run: one run to `path` itself, several to one file each, with the run's model (and its
 * position if necessary) before the extension. Resolves to the paths.
 */
export async function writeTraces(path: string, runs: readonly ReferenceRun[]): Promise<string[]> {
  const timed = runs.filter(({ timelines }) => timelines !== undefined)
  const names = timed.map(({ model }) => basename(model))
  const { dir, name, ext } = parse(path)
  const paths = names.map((model, index) => {
    if (names.length === 1) return path
    const unique = names.filter((other) => other === model).length === 1 ? model : `${model}-${index + 1}`
    return format({ dir, name: `${name}.${unique}`, ext })
  })
  for (const [index, { timelines }] of timed.entries()) await writeTrace(paths[index]!, timelines!)
  return paths
}
