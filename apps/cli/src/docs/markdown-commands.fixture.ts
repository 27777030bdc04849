import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../../../../', import.meta.url))

/** A command of a page, in a block that is marked as `sh`. */
export interface DocumentedCommand {
  /** Page, relative to the repository. */
  readonly page: string
  /** Command without its comment. */
  readonly text: string
  /** Reason from the mark `<!-- not run: REASON -->` above its block. */
  readonly notRun?: string
}

const PAGES = [
  'README.md',
  'examples/README.md',
  'apps/cli/README.md',
  ...readdirSync(join(ROOT, 'docs')).flatMap((name) => (name.endsWith('.md') ? `docs/${name}` : [])),
]

/** Reads the commands of all pages; one that several pages have is returned once. */
export function documentedCommands(): DocumentedCommand[] {
  const found = new Map<string, DocumentedCommand>()
  for (const page of PAGES) {
    for (const command of commandsOf(page, readFileSync(join(ROOT, page), 'utf8'))) {
      const key = ckptLine(command.text) ?? command.text
      if (!found.has(key)) found.set(key, command)
    }
  }
  return [...found.values()]
}

/** Returns the commands in the text of a page. */
export function commandsOf(page: string, markdown: string): DocumentedCommand[] {
  const blocks = markdown.matchAll(/(?:^<!-- not run: ([^\n]+?) -->\n+)?^```sh\n(.*?)^```/gms)
  return [...blocks].flatMap(([, notRun, block]) =>
    block!
      .replaceAll(/\s*\\\n\s*/g, ' ')
      .split('\n')
      .map((line) => line.replace(/(?:^|\s+)#(?:\s.*)?$/, '').trim())
      .filter((text) => text !== '')
      .map((text) => ({ page, text, ...(notRun !== undefined && { notRun }) })),
  )
}

/** Returns what follows `ckpt` in a line that calls it, however it is called; undefined for other programs. */
export function ckptLine(text: string): string | undefined {
  return /^(?:[A-Z_]+=\S* +)*(?:npm run ckpt --|npx ckpt|ckpt) +(.*)$/.exec(text)?.[1]
}

/** Splits a line into words as a shell does. */
export function wordsOf(line: string): string[] {
  const script = `set -f; set -- ${line.replaceAll(/[|].*$/g, '')}; printf '%s\\n' "$@"`
  const { status, stdout, stderr } = spawnSync('bash', ['-c', script], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${line}: ${stderr}`)
  return stdout.trimEnd().split('\n')
}
