import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { nodeArguments } from '@ckpt/testing'

export const CKPT = fileURLToPath(new URL('../../../cli/src/main.ts', import.meta.url))

let known: Set<string> | undefined

/** Returns the options in a text, from `serve` on, that `ckpt serve` does not have. */
export function unknownServeOptions(text: string): string[] {
  const { stdout } =
    known === undefined
      ? spawnSync(process.execPath, [...nodeArguments(CKPT), 'serve', '--help'], { encoding: 'utf8' })
      : { stdout: '' }
  known ??= new Set(stdout.match(/--[a-z][a-z-]+/g))
  const used = text.slice(text.search(/\bserve\b/)).match(/(?<![\w-])--[a-z][a-z-]+/g) ?? []
  if (used.length < 5) throw new Error(`only ${used.length} options of ckpt serve in ${text}`)
  return used.filter((option) => !known!.has(option))
}
