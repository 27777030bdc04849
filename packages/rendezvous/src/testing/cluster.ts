import { fork, type ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import { CkptError, type SerializedError } from '@ckpt/contract'
import getPort, { portNumbers } from 'get-port'

import type { JoinOptions } from '../index.ts'
import type { Commands } from './rank.fixture.ts'

interface Answer {
  readonly id: number
  readonly result?: unknown
  readonly error?: SerializedError
}

/** A rank in a separate process. */
export class RankProcess {
  readonly child: ChildProcess
  readonly #open = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>()
  #lastId = 0

  constructor() {
    this.child = fork(fileURLToPath(new URL('rank.fixture.ts', import.meta.url)), {
      execArgv: ['--import', 'tsx', '--conditions=@ckpt/source'],
      serialization: 'advanced',
    })
    this.child.on('message', (answer: Answer) => {
      const open = this.#open.get(answer.id)
      this.#open.delete(answer.id)
      if (answer.error) open?.reject(CkptError.deserialize(answer.error))
      else open?.resolve(answer.result as never)
    })
    this.child.on('exit', (code, signal) => {
      for (const { reject } of this.#open.values()) reject(new Error(`the rank's process ended: ${code ?? signal}`))
      this.#open.clear()
    })
  }

  call<K extends keyof Commands>(name: K, ...args: Parameters<Commands[K]>): Promise<Awaited<ReturnType<Commands[K]>>> {
    const id = ++this.#lastId
    return new Promise((resolve, reject) => {
      this.#open.set(id, { resolve, reject })
      this.child.send({ id, name, args })
    })
  }

  /** Disconnects from the process; resolves to its exit code once it has ended by itself. */
  async exit(): Promise<number | null> {
    if (this.child.exitCode !== null) return this.child.exitCode
    const ended = once(this.child, 'exit')
    if (this.child.connected) this.child.disconnect()
    const [code] = (await ended) as [number | null]
    return code
  }

  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    const ended = once(this.child, 'exit')
    this.child.kill('SIGKILL')
    await ended
  }
}

/** Several rank processes with a meeting address. */
export class Cluster {
  readonly ranks: RankProcess[]
  readonly address: string

  private constructor(size: number, address: string) {
    this.ranks = Array.from({ length: size }, () => new RankProcess())
    this.address = address
  }

  static async start(size: number): Promise<Cluster> {
    return new Cluster(size, `tcp://127.0.0.1:${await freePort()}`)
  }

  options(rank: number, more: Partial<JoinOptions> = {}): JoinOptions {
    return { rank, worldSize: this.ranks.length, address: this.address, heartbeatMs: 100, heartbeatTimeoutMs: 1500, ...more }
  }

  async join(more: Partial<JoinOptions> = {}): Promise<void> {
    await this.all((rank, i) => rank.call('join', this.options(i, more)))
  }

  all<T>(action: (rank: RankProcess, index: number) => Promise<T>): Promise<T[]> {
    return Promise.all(this.ranks.map(action))
  }

  async kill(): Promise<void> {
    await this.all((rank) => rank.kill())
  }
}

/**
 * Returns a TCP port that was free a moment ago, below the system's ports for outgoing connections. A rank that repeatedly
 * tries to reach a dead coordinator could otherwise get the coordinator's own port, connect to itself, and keep the port taken.
 */
export function freePort(): Promise<number> {
  return getPort({ port: portNumbers(randomInt(20_000, 32_000), 32_767) })
}

/** Returns the error of a promise, as a CkptError. */
export async function failure(promise: Promise<unknown>): Promise<CkptError> {
  const outcome = await promise.then(
    (value) => new Error(`resolved to ${JSON.stringify(value)}`),
    (error: unknown) => error,
  )
  if (!CkptError.is(outcome)) throw outcome
  return outcome
}
