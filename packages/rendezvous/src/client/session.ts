import { CkptError, startReminders, type Epoch, type Waiting } from '@ckpt/contract'

import { BlobStore } from '../blobs.ts'
import { abortedError } from '../errors.ts'
import { startDeadline, startHeartbeat } from '../timers.ts'
import {
  errorData,
  pack,
  protocolError,
  readCoordinatorMessage,
  type CoordinatorMessage,
  type RankMessage,
} from '../wire/messages.ts'
import type { Frames } from '../wire/socket.ts'
import { LocalEpochs } from './epochs.ts'
import type { Link } from './link.ts'
import { Waits, describeWait, type Wait } from './waits.ts'

/**
 * Time in milliseconds for which a rank waits for the coordinator to confirm whose error aborted an epoch, or that the rank has
 * left.
 */
const CONFIRM_MS = 1000
/** Number of heartbeats without an answer that counts as silence. */
const MISSED_BEATS = 3

/** Rank and coordinator of a session. */
export interface SessionOptions {
  /** Name of the coordinator, for errors. */
  readonly name: string
  readonly rank: number
  /** Called with waits that last longer than a second. */
  readonly onWaiting: ((waiting: Waiting) => void) | undefined
}

/**
 * One rank's membership: its link, its heartbeat, and its waits. It is live from `welcome` until `end`, which fails everything
 * open with the error that ended it.
 */
export class Session {
  readonly waits = new Waits()
  readonly epochs = new LocalEpochs()
  readonly #blobs = new BlobStore()
  readonly #peer: string
  readonly #options: SessionOptions
  readonly #lost: (why: string) => CkptError
  readonly #link: Link
  #heard = performance.now()
  #windowMs = Infinity
  #heartbeatMs = Infinity
  #everybody: readonly number[] = []
  #stopHeartbeat: () => void = () => undefined
  #ended: CkptError | undefined
  #fetched: Promise<Uint8Array | undefined> = Promise.resolve(undefined)
  #onFarewell: () => void = () => undefined
  #onPublished: (payload: Uint8Array | undefined) => void = () => undefined
  #onWelcome: (error?: CkptError) => void = () => undefined

  /** `lost` creates the error for a lost coordinator. */
  constructor(
    options: SessionOptions,
    lost: (why: string) => CkptError,
    connect: (onMessage: (frames: Frames) => void, onError: (error: CkptError) => void) => Link,
  ) {
    this.#options = options
    this.#peer = options.name
    this.#lost = lost
    this.#link = connect(
      (frames) => this.#receive(frames),
      (error) => this.end(error),
    )
  }

  /** Reason why this membership is over; undefined while it is not. */
  get ended(): CkptError | undefined {
    return this.#ended
  }

  /** All ranks, members or not. */
  get everybody(): readonly number[] {
    return this.#everybody
  }

  /** Returns true if the coordinator, silent since, had missed several heartbeats by then (`performance.now()`). */
  silentBy(time: number): boolean {
    return time - this.#heard > MISSED_BEATS * this.#heartbeatMs
  }

  /** Maximum silence of the coordinator, in milliseconds. */
  get windowMs(): number {
    return this.#windowMs
  }

  /** Sends `join` and waits for the answer. */
  async join(message: Extract<RankMessage, { type: 'join' }>, timeoutMs: number, signal?: AbortSignal): Promise<void> {
    let settle = () => undefined as void
    try {
      await new Promise<void>((resolve, reject) => {
        const stop = startDeadline(timeoutMs, () => {
          const why = `rank ${message.rank}: no answer from ${this.#peer} within ${Math.round(timeoutMs)} ms; check that rank 0 runs and can be reached there`
          reject(new CkptError('RANK_MISSING', why, { fields: { rank: message.rank, ranks: [0], peer: this.#peer } }))
        })
        const cancel = () => reject(CkptError.from(signal?.reason, 'ABORTED', `joining ${this.#peer} was cancelled`))
        const calm = startReminders((sinceMs) =>
          this.#tell(`${this.#peer} to answer; check that rank 0 runs and can be reached there`, sinceMs, [0]),
        )
        settle = () => {
          stop()
          calm()
          signal?.removeEventListener('abort', cancel)
        }
        if (signal?.aborted) return cancel()
        signal?.addEventListener('abort', cancel, { once: true })
        this.#onWelcome = (error) => (error ? reject(error) : resolve())
        this.send(message)
      })
    } finally {
      settle()
    }
  }

  /** Sends `fetch`, and waits for the answer; one at a time. @throws CkptError `TIMEOUT`, or the reason why this membership ended. */
  fetch(message: Extract<RankMessage, { type: 'fetch' }>, timeoutMs: number): Promise<Uint8Array | undefined> {
    this.#fetched = this.#fetched
      .catch(() => undefined)
      .then(() => {
        if (this.#ended) throw this.#ended
        return new Promise<Uint8Array | undefined>((resolve, reject) => {
          const stop = startDeadline(timeoutMs, () => {
            const { ended } = this
            reject(
              ended ??
                new CkptError('TIMEOUT', `no answer from ${this.#peer} within ${timeoutMs} ms`, {
                  fields: { peer: this.#peer },
                }),
            )
          })
          this.#onPublished = (payload) => {
            stop()
            resolve(payload)
          }
          this.send(message)
        })
      })
    return this.#fetched
  }

  #tell(what: string, sinceMs: number, ranks: readonly number[]): void {
    this.#options.onWaiting?.({ what, sinceMs, rank: this.#options.rank, ranks })
  }

  send(message: RankMessage, payload?: Uint8Array): void {
    if (this.#ended) return
    this.#link.send(payload ? [pack(message), payload] : [pack(message)])
  }

  /** Aborts an epoch on every rank. */
  abortEpoch({ id }: Epoch, rank: number, error: CkptError): void {
    const aborted = abortedError(id, rank, error)
    const giveUp = () => this.#abortEpoch(id, aborted)
    if (!this.epochs.awaitAbort(id, Math.min(this.#windowMs, CONFIRM_MS), giveUp)) return
    this.send({ type: 'abort', epoch: id, error: errorData(error) })
  }

  /** Ends the membership: every wait fails with `reason`, and every epoch is aborted because of it. */
  end(reason: CkptError): void {
    if (this.#ended) return
    this.#ended = reason
    this.#stopHeartbeat()
    this.waits.failAll(reason)
    this.epochs.abortAll(
      (id) =>
        new CkptError('ABORTED', `epoch ${id}: ${reason.message}`, { fields: { ...reason.fields, epoch: id }, cause: reason }),
    )
    this.#onWelcome(reason)
  }

  /**
   * Leaves, and waits briefly for the coordinator to confirm, so that the rank's place is free afterwards. A coordinator that
   * this rank had given up is also notified, in case it returns.
   */
  async close(reason: CkptError): Promise<void> {
    const answered = this.#ended === undefined && this.#windowMs !== Infinity
    this.#link.send([pack({ type: 'leave', ended: this.epochs.takeEnded() } satisfies RankMessage)])
    this.end(reason)
    if (answered) {
      await new Promise<void>((resolve) => {
        const stop = startDeadline(Math.min(this.#windowMs, CONFIRM_MS), resolve)
        this.#onFarewell = () => {
          stop()
          resolve()
        }
      })
    }
    await this.#link.close(!answered)
  }

  #receive(frames: Frames): void {
    this.#heard = performance.now()
    try {
      const message = readCoordinatorMessage(frames, this.#peer)
      if (message.type === 'dismissed') this.#onFarewell()
      if (!this.#ended) this.#handle(message, frames.slice(1))
    } catch (error) {
      this.end(
        CkptError.from(error, 'RENDEZVOUS_PROTOCOL', `a message of ${this.#peer} could not be handled`, { peer: this.#peer }),
      )
    }
  }

  #handle(message: CoordinatorMessage, payloads: readonly Uint8Array[]): void {
    switch (message.type) {
      case 'world':
        this.#resize(message.worldSize)
        return
      case 'welcome':
        this.#resize(message.worldSize)
        this.#windowMs = message.heartbeatTimeoutMs
        this.#heartbeatMs = message.heartbeatMs
        this.#stopHeartbeat()
        this.#stopHeartbeat = startHeartbeat(message.heartbeatMs, (stalledMs) => this.#beat(stalledMs))
        this.#onWelcome()
        return
      case 'beat':
        return
      case 'published':
        this.#onPublished(message.found ? payloads[0] : undefined)
        return
      case 'gathered':
        this.#gathered(message, payloads)
        return
      case 'need': {
        const blob = this.waits.get(message.id)?.blob
        if (blob) this.send({ type: 'payload', id: message.id }, blob.payload)
        return
      }
      case 'payloads': {
        const wait = this.waits.get(message.id)
        if (!wait) return
        if (payloads.length !== message.digests.length) throw protocolError(this.#peer, `${payloads.length} payloads`)
        message.digests.forEach((digest, i) => wait.payloads.set(digest, payloads[i]!))
        this.#completeBlobs(wait)
        return
      }
      case 'waiting': {
        const wait = this.waits.get(message.id)
        if (wait) this.#tell(`${message.names} for ${describeWait(wait)}`, performance.now() - wait.began, message.ranks)
        return
      }
      case 'failed':
        this.waits.fail(message.id, CkptError.deserialize(message.error))
        return
      case 'aborted':
        this.epochs.acknowledge(message.epoch)
        this.#abortEpoch(message.epoch, abortedError(message.epoch, message.rank, CkptError.deserialize(message.error)))
        return
      case 'dismissed':
        this.end(CkptError.deserialize(message.error))
    }
  }

  #resize(worldSize: number): void {
    this.#everybody = Array.from({ length: worldSize }, (_, rank) => rank)
  }

  #gathered(message: Extract<CoordinatorMessage, { type: 'gathered' }>, values: readonly Uint8Array[]): void {
    const { id, epoch: epochId, digests } = message
    const wait = this.waits.get(id)
    const epoch = epochId === null ? undefined : this.epochs.begin(epochId)
    if (!wait) {
      // This rank gave up just as the others began: they must not wait for it.
      const error = new CkptError('ABORTED', 'the rank had given up before the epoch began')
      if (epochId !== null) this.send({ type: 'abort', epoch: epochId, error: errorData(error) })
      return
    }
    const { kind } = wait
    const count = (wait.ranks ?? this.everybody).length
    if (kind === 'epoch' && epoch) this.waits.resolve(id, { kind, epoch })
    else if (kind === 'barrier') this.waits.resolve(id, { kind })
    else if (kind === 'value' && values.length === count) this.waits.resolve(id, { kind, values })
    else if (kind === 'blob' && digests?.length === count) {
      wait.digests = digests
      if (wait.blob) wait.payloads.set(wait.blob.digest, wait.blob.payload)
      for (const digest of digests) {
        const payload = this.#blobs.get(digest)
        if (payload) wait.payloads.set(digest, payload)
      }
      const wanted = [...new Set(digests)].filter((digest) => !wait.payloads.has(digest))
      if (wanted.length === 0) this.#completeBlobs(wait)
      else this.send({ type: 'want', id, digests: wanted })
    } else throw protocolError(this.#peer, `an incomplete answer to a ${kind} gather`)
  }

  #completeBlobs(wait: Wait): void {
    const blobs = (wait.digests ?? []).map((digest, i) => {
      const payload = wait.payloads.get(digest)
      if (!payload) throw protocolError(this.#peer, `no payload ${digest}`)
      this.#blobs.put(wait.key, (wait.ranks ?? this.everybody)[i]!, digest, payload)
      return { digest, payload }
    })
    this.waits.resolve(wait.id, { kind: 'blob', blobs })
  }

  #abortEpoch(id: number, reason: CkptError): void {
    if (!this.epochs.has(id)) return
    this.waits.failAll(reason, (wait) => wait.epoch === id)
    this.epochs.abort(id, reason)
  }

  #beat(stalledMs: number): void {
    this.#heard += stalledMs
    const silent = performance.now() - this.#heard
    if (silent > this.#windowMs) this.end(this.#lost(`was silent for ${Math.round(silent)} ms`))
    else this.send({ type: 'beat', ended: this.epochs.takeEnded() })
  }
}
