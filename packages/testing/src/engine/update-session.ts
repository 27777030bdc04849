import { closeSync, existsSync, openSync, writeSync } from 'node:fs'
import { CkptError, type Host, type HostMemory, type RingTensor } from '@ckpt/contract'
import {
  WORKER_PROTOCOL,
  decodeRankMessage,
  encodeMessage,
  processMark,
  recordingFrame,
  ringTensor,
  type RankMessage,
  type RoutesAnswer,
  type WorkerMessage,
} from '@ckpt/worker-link/protocol'
import { sameSecret } from '@ckpt/utils'
import { Dealer } from 'zeromq'
import { Random } from '../random.ts'
import type { ArmedMutation } from '../mutations/armed.ts'
import type { KeptRing } from './kept-ring.ts'
import type { Parameters } from './parameters.ts'

/** Interval in milliseconds for checking the rank's socket until the first message has arrived. */
const LOOK_MS = 250
/** Time in milliseconds for reading messages that arrived before the end of the connection. */
const READ_REST_MS = 50

export interface UpdateSessionOptions {
  readonly host: Host
  readonly rings: KeptRing
  readonly parameters: Parameters
  readonly address: string
  readonly token: string
  readonly device: string
  /** True if an update was recorded before. */
  readonly recorded: boolean
  /** Name of the parameters' contents. */
  readonly state?: string
  /** Maximum silence of the rank. */
  readonly timeoutMs: number
  /** Called when a rank is about to write into the parameters. */
  readonly onDirect?: () => void
  /** Called when the rank has written; an exception becomes the worker's error (for fault tests). */
  readonly afterDirect?: () => void
  /** A fault for this update (for mutation trials). */
  readonly mutation?: ArmedMutation
  /** True if ranks are told where the parameters lie (default true). */
  readonly shared?: boolean
  /** True if it takes `rehearse`, and answers with its recording. */
  readonly rehearses?: boolean
  /**
   * Returns the messages sent in place of a message, and of the answer to `asked` (for hostile engines; default: the message).
   */
  readonly tamper?: (message: WorkerMessage | RoutesAnswer, asked: RankMessage | undefined) => readonly Uint8Array[]
  /** Called before each message of the rank is handled; an exception becomes the worker's error (for fault tests). */
  readonly before?: (message: RankMessage) => void | Promise<void>
}

export interface UpdateOutcome {
  /** Committed version, or undefined after an abort. */
  readonly version: string | undefined
  /** True if anything was loaded. */
  readonly touched: boolean
  /** True if the rank asked for a recording. */
  readonly recorded?: boolean
  /** Reason of the abort, or the worker's own error. */
  readonly reason?: string
  readonly error?: CkptError
}

/** The engine worker's side of one update, over the worker protocol (docs/worker-protocol.md). */
export async function runUpdateSession(options: UpdateSessionOptions): Promise<UpdateOutcome> {
  const path = options.address.replace(/^ipc:\/\//, '')
  if (!path.startsWith('@') && !existsSync(path)) {
    const reason = `the rank's socket ${path} cannot be seen by process ${process.pid}: let both see its directory`
    return { version: undefined, touched: false, reason, error: new CkptError('ENGINE_UNREACHABLE', reason) }
  }
  const socket = new Dealer({ linger: 1000, receiveTimeout: options.timeoutMs, sendTimeout: options.timeoutMs })
  const session = new Session(options)
  const honest = (message: WorkerMessage | RoutesAnswer) => [encodeMessage(message)]
  const { tamper = honest } = options
  const send = async (message: WorkerMessage | RoutesAnswer, asked?: RankMessage) => {
    for (const frame of tamper(message, asked)) await socket.send(frame)
  }
  const gone = new RankGone(socket, path)
  try {
    socket.connect(options.address)
    await send(helloOf(options))
    while (session.outcome === undefined) {
      let frames: Buffer[] | undefined
      try {
        frames = await receive(socket, gone.happened)
        gone.stopLooking()
      } catch (error) {
        const reason = `the rank was silent for ${options.timeoutMs} ms`
        return { version: undefined, touched: session.touched, reason, error: CkptError.from(error, 'TIMEOUT', reason) }
      }
      if (frames === undefined) {
        const reason = 'the rank closed the connection during the update'
        return { version: undefined, touched: session.touched, reason, error: new CkptError('RANK_LOST', reason) }
      }
      const message = decodeRankMessage(frames[0]!, 'the rank')
      if (message.type === 'error') {
        const error = new CkptError('ENGINE_UNAUTHORIZED', `the rank refused this worker: ${message.error.message}`)
        return { version: undefined, touched: false, reason: error.message, error }
      }
      await send(await session.answer(message), message)
    }
    return session.outcome
  } finally {
    gone.stopLooking()
    session.close()
    socket.close()
  }
}

function helloOf({ token, device, recorded, parameters, state, rehearses }: UpdateSessionOptions): WorkerMessage {
  const mark = processMark()
  return {
    type: 'hello',
    protocol: WORKER_PROTOCOL,
    token,
    pid: process.pid,
    ...(mark !== undefined && { process: mark }),
    engine: 'ckpt reference engine',
    device,
    // Until an update was recorded: this engine knows its routes, but a rank should request them as it does elsewhere.
    ...(recorded && { routes: parameters.recording.id }),
    ...(state !== undefined && { state }),
    ...(rehearses && { rehearses }),
  }
}

/** Notices that the rank is gone. */
class RankGone {
  readonly happened: Promise<undefined>
  readonly #watch: NodeJS.Timeout

  constructor(socket: Dealer, path: string) {
    let tell!: () => void
    this.happened = new Promise<undefined>((resolve) => (tell = () => resolve(undefined)))
    // The rank binds an address only for this update: a lost connection will not come back.
    socket.events.on('disconnect', tell)
    // ZeroMQ does not tell of a connection that was never made: the rank removes its socket when it gives up, and ZeroMQ tries on.
    this.#watch = setInterval(() => {
      if (!path.startsWith('@') && !existsSync(path)) tell()
    }, LOOK_MS)
  }

  stopLooking(): void {
    clearInterval(this.#watch)
  }
}

/** Returns the next message; nothing if the connection is `lost` and everything that had arrived before was read. */
async function receive(socket: Dealer, lost: Promise<undefined>): Promise<Buffer[] | undefined> {
  const next = socket.receive()
  next.catch(() => undefined) // it may be abandoned
  const moment = () => new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), READ_REST_MS))
  return Promise.race([next, lost.then(moment)])
}

class Session {
  readonly #options: UpdateSessionOptions
  #ring: { readonly memory: HostMemory; readonly offset: number } | undefined
  #failure: CkptError | undefined
  #attached = false
  #record = false
  #direct = false
  touched = false
  outcome: UpdateOutcome | undefined

  constructor(options: UpdateSessionOptions) {
    this.#options = options
  }

  async answer(message: Exclude<RankMessage, { type: 'error' }>): Promise<WorkerMessage | RoutesAnswer> {
    const { seq, epoch } = message
    try {
      if (this.#failure && message.type !== 'abort') throw this.#failure
      const started = performance.now()
      await this.#options.before?.(message)
      if (message.type === 'routes' || message.type === 'storages') {
        this.#checkToken(message.token)
        const { recording, storages } = this.#options.parameters
        if (message.type === 'storages') {
          if (this.#options.shared === false) return { type: 'ok', seq, epoch, reason: 'this engine shares no memory' }
          return { type: 'ok', seq, epoch, storages: [...storages] }
        }
        return { type: 'ok', seq, epoch, routes: recordingFrame(recording) }
      }
      if (message.type === 'rehearse' && this.#options.rehearses) {
        this.#checkToken(message.token)
        return { type: 'ok', seq, epoch, routes: recordingFrame({ ...this.#options.parameters.recording, rehearsed: true }) }
      }
      if (message.type === 'sums') {
        if (message.routes !== this.#options.parameters.recording.id)
          throw new CkptError('ROUTES_STALE', 'the rank knows a different recording')
        const seed = this.#options.mutation?.take('parameter')
        if (seed !== undefined) this.#options.parameters.flip(seed)
        const sums = await this.#options.parameters.sums()
        return { type: 'ok', seq, epoch, sums: new Uint8Array(sums.buffer) }
      }
      await this.#handle(message)
      return { type: 'ok', seq, epoch, ...(message.type === 'bucket' && { reloadMs: performance.now() - started }) }
    } catch (error) {
      this.#failure ??= CkptError.from(error, 'ENGINE_WORKER_ERROR')
      const { name, message: text, stack = '' } = error instanceof Error ? error : new Error(String(error))
      const type = CkptError.is(error) ? error.code : name
      const tensor = CkptError.is(error) ? error.fields.tensor : undefined
      return {
        type: 'error',
        seq,
        epoch,
        error: { type, message: text, traceback: stack, ...(tensor !== undefined && { tensor }) },
      }
    }
  }

  async #handle(message: Exclude<RankMessage, { type: 'error' }>): Promise<void> {
    const { parameters, rings } = this.#options
    switch (message.type) {
      case 'attach': {
        this.#checkToken(message.token)
        this.#attached = true
        this.#record = message.record === true
        if (this.#record) this.#options.parameters.renewRecording()
        if (message.ring === null) return
        if (message.ring.kind !== 'shm') throw new CkptError('UNSUPPORTED', `a ${message.ring.kind} ring in a host engine`)
        this.#ring = { memory: await rings.use(message.ring), offset: message.ring.offset }
        return
      }
      case 'bucket':
        await this.#load(message.tensors.map(ringTensor))
        return
      case 'routes':
      case 'storages':
      case 'sums':
        // Answered in `answer`.
        return
      case 'leave':
        this.outcome = { version: undefined, touched: this.touched, reason: 'the rank has left' }
        return
      case 'rehearse':
        // Its greeting does not say that it takes them.
        throw new CkptError('ENGINE_PROTOCOL', 'a rehearse came to a worker that cannot rehearse')
      case 'direct':
        if (!this.#attached) throw new CkptError('ENGINE_PROTOCOL', 'direct before attach')
        if (message.routes !== parameters.recording.id)
          throw new CkptError('ROUTES_STALE', 'the rank knows a different recording')
        this.touched = true
        this.#direct = true
        this.#options.onDirect?.()
        return
      case 'release':
        this.close()
        if (this.#direct) this.#options.afterDirect?.()
        return
      case 'commit':
        this.outcome = { version: message.version, touched: this.touched, recorded: this.#record }
        return
      case 'abort':
        this.close()
        this.outcome = {
          version: undefined,
          touched: this.touched,
          reason: message.reason,
          ...(this.#failure && { error: this.#failure }),
        }
    }
  }

  /** Loads tensors from the ring. @throws CkptError `DIGEST_MISMATCH` naming a tensor whose bytes there have a different digest. */
  async #load(tensors: readonly RingTensor[]): Promise<void> {
    const { host, parameters, mutation } = this.#options
    if (!this.#ring) throw new CkptError('ENGINE_PROTOCOL', 'a bucket before attach')
    const { memory, offset } = this.#ring
    this.#flipRing('ring before comparison', tensors)
    const checked = tensors.filter((tensor) => tensor.digest !== undefined)
    const ranges = checked.map((tensor) => ({ memory: 0, offset: offset + tensor.offset, bytes: tensor.bytes }))
    const digests = checked.length > 0 ? await host.digest([memory], ranges) : []
    checked.forEach((tensor, index) => {
      if (digests[index] === tensor.digest) return
      const text = `digest of ${tensor.name} is ${digests[index]!.toString(16)}, not ${tensor.digest!.toString(16)}`
      throw new CkptError('DIGEST_MISMATCH', text, { fields: { tensor: tensor.name } })
    })
    this.touched = true
    this.#flipRing('ring after comparison', tensors)
    await parameters.load(memory, offset, tensors, mutation)
  }

  /** Changes a byte of one of the tensors, if this fault is set. */
  #flipRing(kind: 'ring before comparison' | 'ring after comparison', tensors: readonly RingTensor[]): void {
    const kept = tensors.filter(({ bytes }) => bytes > 0)
    const seed = kept.length > 0 ? this.#options.mutation?.take(kind) : undefined
    if (seed === undefined) return
    const { memory, offset } = this.#ring!
    const random = new Random(seed)
    const place = random.pick(kept.flatMap((tensor) => this.#options.parameters.readPlace(tensor, random)))
    // This process cannot write to what it has mapped.
    const file = openSync(memory.name!, 'r+')
    writeSync(file, Buffer.of(memory.view(offset + place, 1)[0]! ^ random.between(1, 255)), 0, 1, offset + place)
    closeSync(file)
  }

  #checkToken(token: string): void {
    if (!sameSecret(token, this.#options.token)) {
      throw new CkptError('ENGINE_UNAUTHORIZED', 'the rank presented a wrong token')
    }
  }

  close(): void {
    if (this.#ring) this.#options.rings.release()
    this.#ring = undefined
  }
}
