import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { readIndex } from '@ckpt/safetensors'

/** How to tell that a version is complete. */
export interface VersionRules {
  /** File that a version's directory must contain; without one all files that its index names must be whole. */
  readonly readyFile?: string
  /** Time in milliseconds for which the files of a directory without index must be unchanged. */
  readonly settleMs: number
}

/** Version directories below a directory. */
export class Versions {
  readonly #directory: string
  readonly #rules: VersionRules
  /** State of each directory's files when it was last read, and what was found then. */
  readonly #seen = new Map<string, { readonly state: string; readonly since: number; incomplete?: string }>()

  constructor(directory: string, rules: VersionRules) {
    this.#directory = directory
    this.#rules = rules
  }

  /**
   * Returns the complete versions after `after` (default: all), the newest last. Versions are ordered by name, in which numbers
   * count as numbers: step-10 comes after step-9.
   */
  async complete(after?: string): Promise<string[]> {
    const names = readdirSync(this.#directory, { withFileTypes: true })
      // Writers use names with a dot for what is not complete.
      .filter(
        (entry) =>
          !entry.name.startsWith('.') && (entry.isDirectory() || (entry.isSymbolicLink() && this.#isDirectory(entry.name))),
      )
      .map(({ name }) => name)
      .filter((name) => after === undefined || byVersion(after, name) < 0)
      .sort(byVersion)
    for (const name of this.#seen.keys()) if (!names.includes(name)) this.#seen.delete(name)
    const found = await Promise.all(names.map(async (name) => ((await this.#isComplete(name)) ? [name] : [])))
    return found.flat()
  }

  /** Reason why the newest version is not complete yet, if there is one. */
  incomplete(): { readonly name: string; readonly reason: string } | undefined {
    const name = [...this.#seen.keys()].sort(byVersion).at(-1)
    const reason = name === undefined ? undefined : this.#seen.get(name)!.incomplete
    return reason === undefined ? undefined : { name: name!, reason }
  }

  async #isComplete(name: string): Promise<boolean> {
    const path = join(this.#directory, name)
    const state = stateOf(path)
    if (state === undefined) return false
    const before = this.#seen.get(name)
    const changed = before?.state !== state.text
    const seen = changed ? { state: state.text, since: performance.now() } : before
    if (changed) this.#seen.set(name, seen)
    const reason = await this.#lacks(path, state, seen.since)
    this.#seen.set(name, { state: seen.state, since: seen.since, ...(reason !== undefined && { incomplete: reason }) })
    return reason === undefined
  }

  async #lacks(path: string, { names }: FilesState, since: number): Promise<string | undefined> {
    const { readyFile, settleMs } = this.#rules
    if (readyFile !== undefined) return names.includes(readyFile) ? undefined : `${readyFile} is missing`
    if (!names.some((name) => /\.safetensors(\.index\.json)?$/.test(name))) return 'it has no safetensors files'
    const hasIndex = names.some((name) => name.endsWith('.safetensors.index.json'))
    if (!hasIndex && performance.now() - since < settleMs) return 'its files have just changed'
    try {
      await readIndex(path)
      return undefined
    } catch (error) {
      return CkptError.from(error, 'CHECKPOINT_UNREADABLE').message
    }
  }

  #isDirectory(name: string): boolean {
    return statSync(join(this.#directory, name), { throwIfNoEntry: false })?.isDirectory() ?? false
  }
}

interface FilesState {
  readonly names: readonly string[]
  readonly text: string
}

/** Names, sizes and times of a directory's files; undefined if the directory has just been removed. */
function stateOf(path: string): FilesState | undefined {
  try {
    const names = readdirSync(path).sort()
    const files = names.map((name) => {
      const { size, mtimeMs } = statSync(join(path, name))
      return `${name}\0${size}\0${mtimeMs}`
    })
    return { names, text: files.join('\n') }
  } catch {
    return undefined
  }
}

const collator = new Intl.Collator('en', { numeric: true })

/** Compares names of versions: numbers in them count as numbers. */
export function byVersion(a: string, b: string): number {
  return collator.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0)
}
