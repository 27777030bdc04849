import type { Socket } from 'node:net'
import { Turns } from './turns.ts'

/** As long as Node's parser takes it: past that the parser answers. */
const MOST_HEAD_BYTES = 16 * 1024

/** The answer to a head that its sender ended too early. */
const INCOMPLETE = 'HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n'

/** What becomes of a first request. */
export interface FirstRequestOptions {
  /** Where more strangers wait, one is answered for each connection that is taken: those that wait do not become too many. */
  readonly crowd: number
  /**
   * True if the head of the request shows that its sender may call. It decides who is answered first and nothing else: the request is checked
   * again when it has been parsed.
   */
  mayCall(head: string, socket: Socket): boolean | Promise<boolean>
  /** Gives a connection to the parser, which reads `bytes` first. */
  parse(socket: Socket, bytes: Buffer): void
}

/**
 * Reads the head of each connection's first request before a parser sees it. Whoever shows that he may call is parsed at once. Everybody else
 * waits for a turn, and what he sent after the head is dropped: thousands of strangers, and thousands of requests of one, cost a caller
 * little time.
 */
export class FirstRequests {
  readonly #turns: Turns
  readonly #options: FirstRequestOptions

  constructor(options: FirstRequestOptions) {
    this.#options = options
    this.#turns = new Turns(options.crowd)
  }

  /** Takes a connection that was just accepted. */
  read(socket: Socket): void {
    this.#turns.hurry()
    let held: Buffer = Buffer.alloc(0)
    const pass = (caller: boolean, bytes: Buffer) => {
      socket.off('data', take).off('end', ended).off('close', forget)
      if (caller) this.#options.parse(socket, bytes)
      else this.#turns.push(socket, () => this.#options.parse(socket, bytes))
    }
    const take = (piece: Buffer) => {
      // One piece a turn, however fast they come.
      socket.pause()
      const seen = held.length
      held = seen === 0 ? piece : Buffer.concat([held, piece])
      const bytes = skipEmptyLines(held)
      const end = headEnd(bytes, seen)
      if (end === undefined) {
        this.#turns.push(socket, () => socket.resume())
        return
      }
      const head = bytes.subarray(0, end)
      const caller = this.#options.mayCall(head.toString('latin1'), socket)
      if (typeof caller === 'boolean') pass(caller, caller ? bytes : head)
      else void caller.then((may) => pass(may, may ? bytes : head))
    }
    // Nothing that could be a request will come.
    const ended = () => (held.length > 0 ? socket.end(INCOMPLETE) : socket.destroy())
    const forget = () => this.#turns.drop(socket)
    socket.on('error', () => undefined)
    socket.on('data', take).once('end', ended).once('close', forget)
  }
}

/** Parsers skip empty lines before a request. */
function skipEmptyLines(bytes: Buffer): Buffer {
  let start = 0
  while (bytes[start] === 13 || bytes[start] === 10) start++
  return bytes.subarray(start)
}

/**
 * Where the head of a request ends, or undefined where more has to come. What cannot become a request ends at once, so that the parser
 * says so.
 *
 * @param seen Bytes that are known to hold no end.
 */
function headEnd(bytes: Buffer, seen: number): number | undefined {
  const line = bytes.indexOf(10)
  const begun = bytes.subarray(0, line < 0 ? bytes.length : line).toString('latin1')
  const plausible = line < 0 ? /^[A-Z-]*( [!-\xff]*( [HTP/.\d]*\r?)?)?$/ : /^[A-Z-]+ [!-\xff]+ HTTP\/1\.[01]\r?$/
  if (!plausible.test(begun)) return Math.min(bytes.length, MOST_HEAD_BYTES)
  const from = Math.max(0, seen - 4)
  const [crossed, bare] = [bytes.indexOf('\r\n\r\n', from), bytes.indexOf('\n\n', from)]
  if (crossed >= 0 && (bare < 0 || crossed < bare)) return crossed + 4
  if (bare >= 0) return bare + 2
  return bytes.length < MOST_HEAD_BYTES ? undefined : MOST_HEAD_BYTES
}
