import { readFileSync, statSync } from 'node:fs'
import { isScalar, LineCounter, parseDocument, type Document, type Node } from 'yaml'
import { UsageError } from '../usage.ts'
import { userPath } from '../user-path.ts'

/** Name of the file that is read from the working directory if no other one is named. */
export const CONFIG_NAME = 'ckpt.yaml'

/** Largest file that is read, in bytes. */
const MAX_BYTES = 1 << 20

/** Options from a file; mistakes in it are told with the line. */
export class ConfigFile {
  /** Path, as messages show it. */
  readonly path: string
  /** The file's content as plain values. */
  readonly content: unknown
  readonly #document: Document
  readonly #lines: LineCounter

  constructor(path: string, text: string) {
    this.path = path
    this.#lines = new LineCounter()
    this.#document = parseDocument(text, { lineCounter: this.#lines })
    const [problem] = [...this.#document.errors, ...this.#document.warnings]
    if (problem !== undefined) {
      const line = problem.linePos?.[0].line ?? 1
      throw new UsageError(`${path}:${line}: ${problem.message.split('\n')[0]!.replace(/ at line \d+.*$/, '')}; expected YAML`)
    }
    this.content = this.#document.toJS({ maxAliasCount: 100 }) as unknown
  }

  /** Returns a mistake: file, line, key, and what was expected. */
  mistake(key: readonly string[], expected: string): UsageError {
    const name = key.length === 0 ? '' : `${key.join('.')}: `
    return new UsageError(`${this.path}:${this.#lineOf(key)}: ${name}${expected}`)
  }

  /** Line of a key, or of the closest one above it. */
  #lineOf(key: readonly string[]): number {
    for (let length = key.length; length > 0; length--) {
      const parent: unknown = length === 1 ? this.#document.contents : this.#document.getIn(key.slice(0, length - 1), true)
      const items = (parent as { items?: readonly { key?: unknown }[] } | null)?.items ?? []
      const pair = items.find(({ key: one }) => isScalar(one) && String(one.value) === key[length - 1])
      const start = (pair?.key as Node | undefined)?.range?.[0]
      if (start !== undefined) return this.#lines.linePos(start).line
    }
    return 1
  }
}

/**
 * Reads the file that was named, or `ckpt.yaml` of the working directory if there is one.
 *
 * @throws UsageError naming the file and the line, or if others could have written a file that nobody named.
 */
export function readConfigFile(named: string | undefined): ConfigFile | undefined {
  const path = named ?? CONFIG_NAME
  let text: string
  try {
    const stat = statSync(userPath(path))
    if (!stat.isFile() && named === undefined) return undefined
    if (stat.size > MAX_BYTES) throw new Error(`it holds ${stat.size} bytes, at most ${MAX_BYTES} are read`)
    if (named === undefined && !isOwn(stat)) {
      throw new UsageError(`${path}: other users can write this file; name it with --config ${path} if it is meant`)
    }
    text = readFileSync(userPath(path), 'utf8')
  } catch (error) {
    if (error instanceof UsageError) throw error
    if (named === undefined && (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new UsageError(`--config ${path}: cannot be read: ${(error as Error).message}`)
  }
  return new ConfigFile(path, text)
}

/** True for files of this user or root that nobody else can write: options name programs that are run. */
function isOwn({ uid, mode }: { readonly uid: number; readonly mode: number }): boolean {
  return (uid === process.geteuid!() || uid === 0) && (mode & 0o002) === 0
}
