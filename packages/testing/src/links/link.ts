import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

type Mode = 'open' | 'cut' | 'silent'

/**
 * A rank's connection to the coordinator, or others' to a rank, through a proxy that can delay it, cut it, or swallow its data.
 */
export class FaultyLink {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #mode: Mode = 'open'
  #delayMs = 0
  /** Data to be passed on, in the order in which it arrived. */
  #held: (() => void)[] = []
  /** Port of the server. */
  target: number

  private constructor(target: number) {
    this.target = target
    this.#server = createServer((socket) => this.#accept(socket))
  }

  static async open(target: number): Promise<FaultyLink> {
    const link = new FaultyLink(target)
    await new Promise<void>((resolve, reject) => {
      link.#server.once('error', reject)
      link.#server.listen(0, '127.0.0.1', resolve)
    })
    return link
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get address(): string {
    return `tcp://127.0.0.1:${this.port}`
  }

  /** Passes everything on `delayMs` later than it arrived, until `restore`. */
  delay(delayMs: number): void {
    this.#delayMs = delayMs
  }

  /** Ends all connections and refuses new ones, until `restore`. */
  cut(): void {
    this.#mode = 'cut'
    this.#destroy()
  }

  /** Ends all connections; new ones are served at once. */
  blip(): void {
    this.#destroy()
  }

  /** Passes nothing on, silently, until `restore`. */
  silence(): void {
    this.#mode = 'silent'
  }

  /** Returns to normal; data that arrived meanwhile is passed on. */
  restore(): void {
    this.#mode = 'open'
    this.#delayMs = 0
    const held = this.#held
    this.#held = []
    for (const pass of held) pass()
  }

  async close(): Promise<void> {
    this.#destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #destroy(): void {
    this.#held = []
    for (const socket of this.#sockets) socket.destroy()
    this.#sockets.clear()
  }

  #accept(near: Socket): void {
    if (this.#mode === 'cut') {
      near.destroy()
      return
    }
    const far = connect(this.target, '127.0.0.1')
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from)
      from.setNoDelay(true)
      from.on('data', (data: Buffer) => this.#pass(to, data))
      from.on('error', () => undefined)
      from.on('close', () => {
        this.#sockets.delete(from)
        to.destroy()
      })
    }
  }

  #pass(to: Socket, data: Buffer): void {
    const write = () => {
      if (!to.destroyed) to.write(data)
    }
    if (this.#mode === 'open' && this.#delayMs === 0) return write()
    this.#held.push(write)
    if (this.#mode === 'silent') return
    setTimeout(() => {
      const at = this.#held.indexOf(write)
      if (at < 0) return // released by `restore`
      this.#held.splice(at, 1)
      write()
    }, this.#delayMs)
  }
}
