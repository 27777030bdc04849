import { setTimeout } from 'node:timers/promises'

import type { Dealer, Router } from 'zeromq'

/** A message of several frames. Frames are sent without a copy: they must not be changed after they were handed over. */
export type Frames = readonly Uint8Array[]

/**
 * Maximum bytes of one frame; a peer that sends more is disconnected. Metas of a trillion parameters need a megabyte or two.
 */
export const MAX_FRAME_BYTES = 64 * 2 ** 20
/** Time in milliseconds for which `close` waits until sent messages have left this process. */
const LINGER_MS = 1000
const GONE_LINGER_MS = 50

/** A ZeroMQ socket with one receive loop and one outstanding send at a time. */
export class FrameSocket {
  readonly #socket: Dealer | Router
  readonly #queue: Frames[] = []
  #sending: Promise<void> | undefined
  readonly #receiving: Promise<void>
  readonly #onError: (error: unknown) => void
  #closed = false

  /** Takes over the socket, which is already bound or connected. */
  constructor(socket: Dealer | Router, onMessage: (frames: Buffer[]) => void, onError: (error: unknown) => void) {
    this.#socket = socket
    this.#onError = onError
    socket.linger = LINGER_MS
    this.#receiving = this.#receive(onMessage)
  }

  send(frames: Frames): void {
    if (this.#closed) return
    this.#queue.push(frames)
    this.#sending ??= this.#drain()
  }

  /**
   * Sends queued messages, as far as the peers accept them, then closes; `gone` means that the peer is likely dead and not
   * worth waiting for.
   */
  async close(gone = false): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      if (this.#sending) await within(this.#sending, LINGER_MS)
      if (gone) {
        await setTimeout(GONE_LINGER_MS)
        this.#socket.linger = 0
      }
      this.#socket.close()
    }
    await this.#receiving
  }

  async #drain(): Promise<void> {
    try {
      for (let frames = this.#queue.shift(); frames !== undefined; frames = this.#queue.shift()) {
        await this.#socket.send(frames as Uint8Array[])
      }
    } catch (error) {
      this.#queue.length = 0
      if (!this.#socket.closed) this.#onError(error)
    } finally {
      this.#sending = undefined
    }
  }

  async #receive(onMessage: (frames: Buffer[]) => void): Promise<void> {
    try {
      for await (const frames of this.#socket) {
        if (this.#closed) return
        onMessage(frames)
      }
    } catch (error) {
      if (!this.#closed) this.#onError(error)
    }
  }
}

/** Waits for `promise`, at most `ms` milliseconds. */
async function within(promise: Promise<void>, ms: number): Promise<void> {
  const over = new AbortController()
  const timer = setTimeout(ms, undefined, { signal: over.signal }).catch(() => undefined)
  await Promise.race([promise, timer])
  over.abort()
}
