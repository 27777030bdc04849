import { timingSafeEqual } from 'node:crypto'
import { CkptError, type Host, type HostMemory } from '@ckpt/contract'
import {
  WORKER_PROTOCOL,
  decodeRankMessage,
  encodeMessage,
  ringTensor,
  type RankMessage,
  type WorkerMessage,
} from '@ckpt/core/worker-protocol'
import { Dealer } from 'zeromq'
import type { KeptRing } from './kept-ring.ts'
import type { Parameters } from './parameters.ts'

export interface UpdateSessionOptions {
  readonly host: Host
  readonly rings: KeptRing
  readonly parameters: Parameters
  readonly address: string
  readonly token: string
  readonly device: string
  /** Longest silence of the rank. */
  readonly timeoutMs: number
  /** Called before each bucket is loaded; what it throws is the worker's error (for fault tests). */
  readonly beforeBucket?: (bucket: number) => void | Promise<void>
}

export interface UpdateOutcome {
  /** The version committed, or undefined after an abort. */
  readonly version: string | undefined
  /** Whether anything was loaded. */
  readonly touched: boolean
  /** Why the update was aborted, or the worker's own error. */
  readonly reason?: string
  readonly error?: CkptError
}

/** The engine worker's side of one update, over the worker protocol (docs/worker-protocol.md). */
export async function runUpdateSession(options: UpdateSessionOptions): Promise<UpdateOutcome> {
  const socket = new Dealer({ linger: 1000, receiveTimeout: options.timeoutMs, sendTimeout: options.timeoutMs })
  const session = new Session(options)
  try {
    socket.connect(options.address)
    await socket.send(
      encodeMessage({
        type: 'hello',
        protocol: WORKER_PROTOCOL,
        token: options.token,
        pid: process.pid,
        engine: 'ckpt reference engine',
        device: options.device,
      }),
    )
    while (session.outcome === undefined) {
      let frames: Buffer[]
      try {
        frames = await socket.receive()
      } catch (error) {
        const reason = `the rank was silent for ${options.timeoutMs} ms`
        return { version: undefined, touched: session.touched, reason, error: CkptError.from(error, 'TIMEOUT', reason) }
      }
      const message = decodeRankMessage(frames[0]!, 'the rank')
      if (message.type === 'error') {
        const error = new CkptError('ENGINE_UNAUTHORIZED', `the rank refused this worker: ${message.error.message}`)
        return { version: undefined, touched: false, reason: error.message, error }
      }
      await socket.send(encodeMessage(await session.answer(message)))
    }
    return session.outcome
  } finally {
    session.close()
    socket.close()
  }
}

class Session {
  readonly #options: UpdateSessionOptions
  #ring: { readonly memory: HostMemory; readonly offset: number } | undefined
  #failure: CkptError | undefined
  touched = false
  outcome: UpdateOutcome | undefined

  constructor(options: UpdateSessionOptions) {
    this.#options = options
  }

  async answer(message: Exclude<RankMessage, { type: 'error' }>): Promise<WorkerMessage> {
    const { seq, epoch } = message
    try {
      if (this.#failure && message.type !== 'abort') throw this.#failure
      const started = performance.now()
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
    const { host, parameters, rings } = this.#options
    switch (message.type) {
      case 'attach': {
        const given = Buffer.from(message.token)
        const expected = Buffer.from(this.#options.token)
        if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
          throw new CkptError('ENGINE_UNAUTHORIZED', 'the rank presented a wrong token')
        }
        if (message.ring.kind !== 'shm') throw new CkptError('UNSUPPORTED', `a ${message.ring.kind} ring in a host engine`)
        this.#ring = { memory: await rings.use(message.ring.name), offset: message.ring.offset }
        return
      }
      case 'bucket': {
        if (!this.#ring) throw new CkptError('ENGINE_PROTOCOL', 'a bucket before attach')
        await this.#options.beforeBucket?.(message.bucket)
        const tensors = message.tensors.map(ringTensor)
        const { memory, offset } = this.#ring
        const checked = tensors.filter((tensor) => tensor.digest !== undefined)
        if (checked.length > 0) {
          const ranges = checked.map((tensor) => ({ memory: 0, offset: offset + tensor.offset, bytes: tensor.bytes }))
          const digests = await host.digest([memory], ranges)
          checked.forEach((tensor, index) => {
            if (digests[index] === tensor.digest) return
            const text = `digest of ${tensor.name} is ${digests[index]!.toString(16)}, not ${tensor.digest!.toString(16)}`
            throw new CkptError('DIGEST_MISMATCH', text, { fields: { tensor: tensor.name } })
          })
        }
        this.touched = true
        await parameters.load(memory, offset, tensors)
        return
      }
      case 'release':
        this.close()
        return
      case 'commit':
        this.outcome = { version: message.version, touched: this.touched }
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

  close(): void {
    if (this.#ring) this.#options.rings.release()
    this.#ring = undefined
  }
}
