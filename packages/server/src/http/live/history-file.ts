import { readFile, rename, writeFile } from 'node:fs/promises'
import { CkptError } from '@ckpt/contract'
import { STAGES, type Activity, type PastUpdate } from '@ckpt/core'
import { z } from 'zod'

/** Larger files are not ours: 50 updates, five of them with a timeline, are less than 1 MB. */
const MAX_BYTES = 8 * 2 ** 20

const count = z.number().min(0)
const span = z.tuple([
  z
    .int()
    .min(0)
    .max(STAGES.length - 1),
  count,
  count,
  count,
  count,
])
const timeline = z.object({
  ...{ rank: count, checkpoint: z.string(), version: z.string(), epoch: count, strategy: z.string(), mode: z.string() },
  ...{ bytes: count, startedUs: count, measuredSpans: count },
  steps: z.array(z.tuple([z.string(), count, count])).max(100),
  spans: z.array(span).max(10_000),
})
const pastUpdate = z.object({
  ...{ checkpoint: z.string(), version: z.string(), strategy: z.string(), startedMs: count, totalMs: count },
  bytes: count.exactOptional(),
  steps: z.object({ beginMs: count, planMs: count, attachMs: count, pipelineMs: count, commitMs: count }).exactOptional(),
  timeline: timeline.exactOptional(),
  error: z.object({ code: z.string(), message: z.string() }).exactOptional(),
})
const history = z.object({ schema: z.literal(1), updates: z.array(pastUpdate).max(1000) })

/**
 * Keeps the history of a rank in a file, so that it survives a restart of the process. A missing file is an empty history.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the file if it has different contents, or cannot be read or written.
 */
export class HistoryFile {
  readonly #path: string
  #saved: PastUpdate | undefined
  #saving: Promise<void> = Promise.resolve()

  constructor(path: string) {
    this.#path = path
  }

  /** Adds the file's updates to the history, and writes the file after each further update. */
  async keep(activity: Activity): Promise<void> {
    activity.restore(await this.#read())
    this.#saved = activity.history[0]
    // Fails now rather than after the first update, where nobody would notice.
    await this.#write(activity.history)
    activity.on('change', () => {
      const [newest] = activity.history
      if (newest === this.#saved) return
      this.#saved = newest
      const updates = [...activity.history]
      this.#saving = this.#saving.then(() => this.#write(updates)).catch(() => undefined)
    })
  }

  /** Waits until everything is written. */
  async settled(): Promise<void> {
    await this.#saving
  }

  async #read(): Promise<PastUpdate[]> {
    const path = this.#path
    try {
      const text = await readFile(path, 'utf8')
      if (text.length > MAX_BYTES) throw new Error(`${text.length} characters, at most ${MAX_BYTES} are expected`)
      return history.parse(JSON.parse(text)).updates
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw invalid(path, 'does not contain the history of a rank; remove it, or name a different file', error)
    }
  }

  async #write(updates: readonly PastUpdate[]): Promise<void> {
    const path = this.#path
    try {
      await writeFile(`${path}.new`, `${JSON.stringify({ schema: 1, updates })}\n`, { mode: 0o600 })
      await rename(`${path}.new`, path)
    } catch (error) {
      throw invalid(path, 'cannot be written', error)
    }
  }
}

function invalid(file: string, what: string, error: unknown): CkptError {
  const cause = error instanceof Error ? error : new Error(String(error))
  const reason = cause instanceof z.ZodError ? z.prettifyError(cause).replaceAll('\n', ' ') : cause.message
  return new CkptError('INVALID_ARGUMENT', `history ${file} ${what}: ${reason}`, { cause, fields: { field: 'history', file } })
}
