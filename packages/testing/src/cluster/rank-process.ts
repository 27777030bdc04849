import { CkptError } from '@ckpt/contract'
import { spawnSource, type Spawned, type SpawnOptions } from './processes.ts'
import type { PointMessage, RankCall, RankCalls, RankReplyMessage } from './rank-protocol.ts'

interface Waiting {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
}

/** A rank in a separate process, controlled by messages. */
export class RankProcess {
  readonly process: Spawned
  readonly rank: number
  readonly #waiting = new Map<number, Waiting>()
  readonly ready: Promise<void>
  #next = 0

  constructor(rank: number, options: SpawnOptions = {}) {
    this.rank = rank
    this.process = spawnSource(`rank ${rank}`, new URL('./rank-main.ts', import.meta.url), [], options)
    this.ready = new Promise((resolve, reject) => this.#waiting.set(-1, { resolve: () => resolve(), reject }))
    this.process.child.on('message', (message: RankReplyMessage | PointMessage) => {
      if ('point' in message) return
      const waiting = this.#waiting.get(message.id)
      this.#waiting.delete(message.id)
      if ('error' in message) waiting?.reject(Object.assign(CkptError.deserialize(message.error), { typed: message.typed }))
      else waiting?.resolve(message.value)
    })
    this.process.child.on('exit', (code, signal) => {
      const text = `rank ${rank} exited (${signal ?? code}): ${this.process.stderr()}`
      for (const { reject } of this.#waiting.values()) reject(new CkptError('RANK_LOST', text, { fields: { rank } }))
      this.#waiting.clear()
    })
  }

  /** Makes a call on the rank. Rejects with the rank's own error, or `RANK_LOST` if its process ends. */
  call<K extends RankCall>(call: K, argument: RankCalls[K][0]): Promise<RankCalls[K][1]> {
    const id = this.#next++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject })
      this.process.child.send({ id, call, argument }, (error) => error && reject(error))
    })
  }
}
