import {
  CkptError,
  type Blob,
  type CallOptions,
  type Epoch,
  type GatherOptions,
  type RankReport,
  type Rendezvous,
} from '@ckpt/contract'

import { decodeReports, MAX_REPORT_BYTES, REPORT_KEY, REPORTS_KEY } from '../coordinator/rank-reports.ts'
import { invalid } from '../errors.ts'
import { checkTimeout } from '../options.ts'
import { pack, PROTOCOL, protocolError, unpack, type GatherKind } from '../wire/messages.ts'
import { MAX_FRAME_BYTES } from '../wire/socket.ts'
import type { Session } from './session.ts'
import { describeWait, type Gathered, type Wait } from './waits.ts'

/** Time in milliseconds after the coordinator's deadline at which a rank ends a wait by itself. */
const LONGEST_GRACE_MS = 1000
const MAX_DIGEST = 128
const MAX_KEY = 1024

export interface RankIdentity {
  readonly rank: number
  /** Name of the coordinator, for errors. */
  readonly coordinator: string
  /** Secret of the run. */
  readonly token: string
  /** Default deadline in milliseconds. */
  readonly timeoutMs: number
}

/** {@link Rendezvous} over a session with the coordinator. */
export class RankRendezvous implements Rendezvous {
  readonly rank: number
  readonly #identity: RankIdentity
  readonly #session: Session

  constructor(identity: RankIdentity, session: Session) {
    this.rank = identity.rank
    this.#identity = identity
    this.#session = session
  }

  get worldSize(): number {
    return this.#session.everybody.length
  }

  /** Reason why this membership is over; undefined while it is not. */
  get lost(): CkptError | undefined {
    return this.#session.ended
  }

  /** Returns true if the coordinator, silent since, had missed several heartbeats by then (`performance.now()`). */
  silentBy(time: number): boolean {
    return this.#session.silentBy(time)
  }

  get lossMs(): number {
    return this.#session.windowMs
  }

  async allGather<T>(key: string, value: T, options?: GatherOptions): Promise<T[]> {
    let payload: Uint8Array
    try {
      payload = pack(value)
    } catch (error) {
      throw CkptError.from(error, 'INVALID_ARGUMENT', `value for ${JSON.stringify(key)} cannot be sent`, { field: 'value' })
    }
    checkSize(payload, 'value', key)
    const { values } = await this.#gather('value', key, options, { payload })
    return values.map((bytes, i) => {
      try {
        return unpack(bytes) as T
      } catch (error) {
        throw protocolError(
          `rank ${(options?.ranks ?? this.#session.everybody)[i]}`,
          `its value for ${JSON.stringify(key)} is malformed`,
          error,
        )
      }
    })
  }

  publish(key: string, payload: Uint8Array): void {
    if (key.length > MAX_KEY) throw invalid('key', `${key.length} characters, at most ${MAX_KEY}`)
    if (this.#session.ended) throw this.#session.ended
    this.#session.send({ type: 'publish', key }, payload)
  }

  report(payload: Uint8Array): void {
    if (payload.byteLength > MAX_REPORT_BYTES)
      throw invalid('payload', `${payload.byteLength} bytes, at most ${MAX_REPORT_BYTES}`)
    this.publish(REPORT_KEY, payload)
  }

  async reports({ timeoutMs = this.#identity.timeoutMs }: CallOptions = {}): Promise<RankReport[]> {
    const { token, coordinator } = this.#identity
    const payload = await this.#session.fetch({ type: 'fetch', protocol: PROTOCOL, token, key: REPORTS_KEY }, timeoutMs)
    return decodeReports(payload, coordinator)
  }

  async allGatherBlobs(key: string, blob: Blob, options?: GatherOptions): Promise<Blob[]> {
    if (blob.digest.length === 0 || blob.digest.length > MAX_DIGEST) {
      throw invalid('digest', `${blob.digest.length} characters; 1 to ${MAX_DIGEST} are allowed`)
    }
    checkSize(blob.payload, 'payload', key)
    return (await this.#gather('blob', key, options, { blob })).blobs
  }

  async barrier(key: string, options?: GatherOptions): Promise<void> {
    await this.#gather('barrier', key, options)
  }

  async beginEpoch(options?: GatherOptions): Promise<Epoch> {
    return (await this.#gather('epoch', '', options)).epoch
  }

  endEpoch(epoch: Epoch): void {
    this.#session.epochs.end(epoch.id)
  }

  abortEpoch(epoch: Epoch, error: CkptError): void {
    this.#session.abortEpoch(epoch, this.rank, error)
  }

  async close(): Promise<void> {
    const { rank } = this
    await this.#session.close(new CkptError('INVALID_STATE', `rank ${rank} has closed its rendezvous`, { fields: { rank } }))
  }

  async #gather<K extends GatherKind>(
    kind: K,
    key: string,
    options: GatherOptions = {},
    brings: { payload?: Uint8Array; blob?: Blob } = {},
  ): Promise<Extract<Gathered, { kind: K }>> {
    const { ranks, epoch, signal, timeoutMs = this.#identity.timeoutMs } = options
    const session = this.#session
    if (key.length > MAX_KEY) throw invalid('key', `${key.length} characters; at most ${MAX_KEY} are allowed`)
    checkTimeout(timeoutMs)
    if (ranks) this.#checkRanks(ranks)
    const refusal = session.ended ?? (epoch === undefined ? undefined : session.epochs.refusal(epoch))
    if (refusal) throw refusal
    const what = describeWait({ kind, key })
    if (signal?.aborted) throw CkptError.from(signal.reason, 'ABORTED', `${what} was cancelled`)

    const cancel = (wait: Wait) => session.send({ type: 'cancel', id: wait.id })
    const gathered = await session.waits.open(
      {
        kind,
        key,
        epoch,
        ranks,
        signal,
        blob: brings.blob,
        timeoutMs: timeoutMs + Math.min(session.windowMs, LONGEST_GRACE_MS),
        onTimeout: (wait) => {
          cancel(wait)
          const others = (ranks ?? session.everybody).filter((rank) => rank !== this.rank)
          const { coordinator } = this.#identity
          const why = `${what}: nothing from ranks ${others.join(', ')} after ${timeoutMs} ms, and ${coordinator} does not answer`
          return new CkptError('RANK_MISSING', why, { fields: { ranks: others, rank: this.rank, peer: coordinator, key } })
        },
        onCancel: (wait, reason) => {
          cancel(wait)
          return CkptError.from(reason, 'ABORTED', `${what} was cancelled`)
        },
      },
      ({ id }) => {
        const list = options.ranks ? [...options.ranks] : null
        const digest = brings.blob?.digest ?? null
        const message = { id, kind, key, ranks: list, epoch: epoch ?? null, timeoutMs, digest, hears: true } as const
        session.send({ type: 'gather', ...message }, brings.payload)
      },
    )
    return gathered as Extract<Gathered, { kind: K }>
  }

  #checkRanks(ranks: readonly number[]): void {
    const ascending = ranks.every((rank, i) => Number.isInteger(rank) && rank < this.worldSize && rank > (ranks[i - 1] ?? -1))
    if (!ascending) throw invalid('ranks', `[${ranks.join(', ')}] must be ascending ranks below ${this.worldSize}`)
    if (!ranks.includes(this.rank)) throw invalid('ranks', `[${ranks.join(', ')}] does not include rank ${this.rank} itself`)
  }
}

/** The other side would take larger frames for an attack and close the connection. */
function checkSize({ byteLength }: Uint8Array, field: string, key: string): void {
  if (byteLength <= MAX_FRAME_BYTES) return
  throw invalid(field, `${byteLength} bytes for ${JSON.stringify(key)}; at most ${MAX_FRAME_BYTES} are allowed`)
}
