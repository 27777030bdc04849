/** A frame of a stream: a header of fixed size, and a body whose size the header says. */
export interface Frame {
  readonly header: Buffer
  readonly body: Buffer
}

export interface FrameFormat {
  /** Size of each header, in bytes. */
  readonly headerBytes: number
  /** Size of the body behind a header, in bytes; throws where it is too large. */
  readonly bodyBytes: (header: Buffer) => number
}

/**
 * Cuts a stream into frames. A frame takes as much memory as its header says, and the work is proportional to the bytes, in whatever pieces
 * they arrive.
 */
export class FrameReader {
  readonly #format: FrameFormat
  #header: Buffer
  #headerBytes = 0
  #body: Buffer | undefined
  #bodyBytes = 0

  constructor(format: FrameFormat) {
    this.#format = format
    this.#header = Buffer.alloc(format.headerBytes)
  }

  /** Takes in the next bytes of the stream. @returns the frames that they complete @throws what `bodyBytes` throws */
  *read(chunk: Buffer): Generator<Frame, void> {
    for (let at = 0; at < chunk.length || this.#isComplete();) {
      if (this.#body === undefined) {
        const piece = chunk.copy(this.#header, this.#headerBytes, at)
        at += piece
        this.#headerBytes += piece
        if (this.#headerBytes < this.#header.length) return
        this.#body = Buffer.allocUnsafe(this.#format.bodyBytes(this.#header))
      }
      const piece = chunk.copy(this.#body, this.#bodyBytes, at)
      at += piece
      this.#bodyBytes += piece
      if (!this.#isComplete()) return
      const frame = { header: this.#header, body: this.#body }
      this.#header = Buffer.alloc(this.#format.headerBytes)
      this.#body = undefined
      this.#headerBytes = this.#bodyBytes = 0
      yield frame
    }
  }

  #isComplete(): boolean {
    return this.#body !== undefined && this.#bodyBytes === this.#body.length
  }
}
