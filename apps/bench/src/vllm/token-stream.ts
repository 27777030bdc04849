import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError } from '@ckpt/contract'
import { z } from 'zod'

const POLL_MS = 2
const eventSchema = z.union([
  z.object({ choices: z.array(z.unknown()) }),
  z.object({ error: z.unknown() }).transform(({ error }) => ({ error: JSON.stringify(error) })),
])

export interface TokenStreamOptions {
  readonly url: string
  readonly model: string
  readonly prompt: readonly number[]
  readonly maxTokens: number
}

/** A client that streams one completion and notes when each token arrives. */
export class TokenStream implements AsyncDisposable {
  /** `performance.now()` of each token. */
  readonly arrivals: number[] = []
  readonly #controller = new AbortController()
  readonly #done: Promise<void>
  #isOver = false
  #error: unknown

  private constructor(options: TokenStreamOptions) {
    this.#done = this.#read(options)
      .catch((error: unknown) => {
        if (!this.#controller.signal.aborted) this.#error = error
      })
      .finally(() => (this.#isOver = true))
  }

  static start(options: TokenStreamOptions): TokenStream {
    return new TokenStream(options)
  }

  /**
   * Resolves to true when this many tokens arrived after `since`, to false if the stream ends before or after `timeoutMs`.
   * @throws CkptError `ENGINE_PROTOCOL` if the server refuses the request or ends it with an error.
   */
  async received(count: number, since: number, timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      if (this.#error !== undefined) throw CkptError.from(this.#error, 'ENGINE_PROTOCOL', 'streaming tokens during an update')
      if (this.arrivals.filter((at) => at > since).length >= count) return true
      if (this.#isOver || performance.now() > deadline) return false
      await sleep(POLL_MS)
    }
  }

  async #read({ url, model, prompt, maxTokens }: TokenStreamOptions): Promise<void> {
    const answer = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model, prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: true, stream: true }),
      signal: this.#controller.signal,
    })
    if (!answer.ok || answer.body === null) {
      throw new CkptError('ENGINE_PROTOCOL', `/v1/completions answered ${answer.status}: ${await answer.text()}`)
    }
    const events = new EventReader()
    const decoder = new TextDecoder()
    for await (const part of answer.body) {
      const now = performance.now()
      const tokens = events.read(decoder.decode(part as Uint8Array, { stream: true }))
      for (let i = 0; i < tokens; i++) this.arrivals.push(now)
    }
  }

  /** Ends the request. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#controller.abort()
    await this.#done
  }
}

/** Counts the tokens in server-sent events that arrive in parts. */
export class EventReader {
  #rest = ''

  /** Returns the number of tokens in the events that this part completes. @throws CkptError `ENGINE_PROTOCOL` for an error event. */
  read(part: string): number {
    const lines = (this.#rest + part).split('\n')
    this.#rest = lines.pop()!
    let tokens = 0
    for (const line of lines) {
      const data = /^data:\s*(.+?)\s*$/.exec(line)?.[1]
      if (data === undefined || data === '[DONE]') continue
      const event = eventSchema.parse(JSON.parse(data))
      if ('error' in event) throw new CkptError('ENGINE_PROTOCOL', `the stream ended with an error: ${event.error}`)
      tokens += event.choices.length
    }
    return tokens
  }
}

/**
 * Returns the longest time between two tokens, one after the other, of which some lies between `from` and `to`. Undefined if no
 * token came before or none after: the gap is then not known whole.
 */
export function longestGapMs(arrivals: readonly number[], from: number, to: number): number | undefined {
  if (!arrivals.some((at) => at <= from) || !arrivals.some((at) => at >= to)) return undefined
  let longest = 0
  for (const [index, at] of arrivals.entries()) {
    const next = arrivals[index + 1]
    if (next !== undefined && next >= from && at <= to) longest = Math.max(longest, next - at)
  }
  return longest
}
