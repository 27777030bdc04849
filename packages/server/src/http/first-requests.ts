import type { Socket } from 'node:net'
import { Turns } from './turns.ts'

/** The limit of Node's parser, which answers beyond it. */
const MOST_HEAD_BYTES = 16 * 1024

/** Answer to a head that its sender ended too early. */
const INCOMPLETE = 'HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n'

/** Handling of first requests. */
export interface FirstRequestOptions {
  /**
   * Number of waiting strangers above which one is answered for each accepted connection, so that their number does not grow.
   */
  readonly crowd: number
  /**
   * Returns true if the head of the request shows that its sender may call. It decides only who is answered first: the request
   * is checked again when it has been parsed.
   */
  mayCall(head: string, socket: Socket): boolean | Promise<boolean>
  /** Gives a connection to the parser, which reads `bytes` first. */
  parse(socket: Socket, bytes: Buffer): void
}

/**
 * Reads the head of each connection's first request before a parser sees it. Requests that show the right to call are parsed at
 * once. All others wait for a turn, and their input after the head is dropped: thousands of strangers, and thousands of
 * requests of one, cost a caller little time.
 */
export class FirstRequests {
  readonly #turns: Turns
  readonly #options: FirstRequestOptions

  constructor(options: FirstRequestOptions) {
    this.#options = options
    this.#turns = new Turns(options.crowd)
  }

  /** Takes a newly accepted connection. */
  read(socket: Socket): void {
    this.#turns.hurry()
    let held: Buffer = Buffer.alloc(0)
    const pass = (caller: boolean, bytes: Buffer) => {
      socket.off('data', take).off('end', ended).off('close', forget)
      if (caller) this.#options.parse(socket, bytes)
      else this.#turns.push(socket, () => this.#options.parse(socket, bytes))
    }
    const take = (piece: Buffer) => {
      // One piece per turn, however fast they arrive.
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
    // No valid request can follow.
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
 * Returns the end of a request's head, or undefined if more has to arrive. Input that cannot become a request ends at once, so
 * that the parser reports it.
 *
 * @param seen Bytes that are known to contain no end.
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
