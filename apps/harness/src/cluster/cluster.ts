import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { UpdateReport } from '@ckpt/core'
import { EngineProcess, type EngineProcessOptions } from './engine-process.ts'
import { RankProcess } from './rank-process.ts'
import type { RankCall, RankCalls, RankUpdate } from './rank-protocol.ts'

export interface ClusterOptions {
  readonly ranks: number
  readonly keepAlive?: boolean
  readonly timeoutMs?: number
  /** Secret of the run. */
  readonly token?: string
  readonly heartbeatTimeoutMs?: number
  /** Threads of each rank. */
  readonly threads?: number
  /** More environment of each rank's process. */
  readonly env?: (rank: number) => NodeJS.ProcessEnv
  /** Command line that is to start ranks and engine workers, such as `nsenter` with its arguments. */
  readonly through?: readonly string[]
  /** Where the engines' parameters live (default host); with `cuda` rank r has GPU r. */
  readonly backend?: 'host' | 'cuda'
  /** Engine workers, one a rank; absent for clusters that only gather. */
  readonly engine?: Omit<EngineProcessOptions, 'directory' | 'tpRank' | 'tpSize' | 'extra'> & {
    /** More arguments for the engine worker of a rank. */
    readonly extra?: (rank: number) => readonly string[]
  }
}

/** Rank processes and their engine workers on this machine. `close` ends all of them and removes what they left. */
export class Cluster implements AsyncDisposable {
  readonly ranks: readonly RankProcess[]
  readonly engines: EngineProcess[]
  readonly #directory: string
  #address = ''
  readonly #options: ClusterOptions
  readonly #removeDirectory = () => rmSync(this.#directory, { recursive: true, force: true })

  private constructor(options: ClusterOptions, directory: string) {
    this.#options = options
    this.#directory = directory
    process.on('exit', this.#removeDirectory)
    this.engines = options.engine ? Array.from({ length: options.ranks }, (_, rank) => this.#startEngine(rank)) : []
    this.ranks = Array.from({ length: options.ranks }, (_, rank) => {
      const { env, through } = options
      return new RankProcess(rank, { ...(env && { env: env(rank) }), ...(through && { through }) })
    })
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const cluster = new Cluster(options, mkdtempSync(join(tmpdir(), 'ckpt-cluster-')))
    try {
      await Promise.all([...cluster.ranks.map((rank) => rank.ready), ...cluster.engines.map((engine) => engine.ready())])
      const address = `tcp://127.0.0.1:${await freePort()}`
      cluster.#address = address
      await Promise.all(
        cluster.ranks.map(({ rank }) =>
          cluster.ranks[rank]!.call('create', {
            rank,
            worldSize: options.ranks,
            address,
            keepAlive: options.keepAlive ?? false,
            timeoutMs: options.timeoutMs ?? 60_000,
            ...(options.heartbeatTimeoutMs !== undefined && { heartbeatTimeoutMs: options.heartbeatTimeoutMs }),
            ...(options.token !== undefined && { token: options.token }),
            ...(options.threads !== undefined && { threads: options.threads }),
            ...(options.backend === 'cuda' && { gpu: rank }),
          }),
        ),
      )
      return cluster
    } catch (error) {
      await cluster.close()
      throw error
    }
  }

  /** Where its coordinator listens. */
  get address(): string {
    return this.#address
  }

  #startEngine(rank: number): EngineProcess {
    const { extra, ...engine } = this.#options.engine!
    return this.#newEngine(rank, engine, extra?.(rank))
  }

  #newEngine(
    rank: number,
    engine: Omit<NonNullable<ClusterOptions['engine']>, 'extra'>,
    extra: readonly string[] = [],
  ): EngineProcess {
    return new EngineProcess({
      device: this.#options.backend === 'cuda' ? 'cuda' : 'cpu',
      ...engine,
      directory: this.#directory,
      tpRank: rank,
      tpSize: this.#options.ranks,
      extra,
      ...(this.#options.through && { through: this.#options.through }),
    })
  }

  /** Replaces the engine worker of a rank by a new process, without injected faults. */
  async restartEngine(rank: number): Promise<void> {
    await this.engines[rank]?.process.stop('SIGKILL')
    const { extra: _, ...engine } = this.#options.engine!
    this.engines[rank] = this.#newEngine(rank, engine)
    await this.engines[rank].ready()
  }

  /** Makes the same call on every rank at once. */
  all<K extends RankCall>(call: K, argument: (rank: number) => RankCalls[K][0]): Promise<RankCalls[K][1][]> {
    return Promise.all(this.ranks.map((rank) => rank.call(call, argument(rank.rank))))
  }

  /** Like `all`, but waits for every rank and gives each one's outcome. */
  settle<K extends RankCall>(
    call: K,
    argument: (rank: number) => RankCalls[K][0],
  ): Promise<PromiseSettledResult<RankCalls[K][1]>[]> {
    return Promise.allSettled(this.ranks.map((rank) => rank.call(call, argument(rank.rank))))
  }

  /** Every rank registers its share of the checkpoint's files. */
  async register(
    name: string,
    directory: string,
    options: RankCalls['register'][0]['options'] = {},
  ): Promise<{ milliseconds: number }[]> {
    return this.all('register', (index) => ({
      name,
      source: { directory },
      options: { ...options, share: { index, count: this.ranks.length } },
    }))
  }

  /** One update of all engine workers. */
  update(name: string, options: Omit<RankUpdate, 'name' | 'engineSocket'> = {}): Promise<UpdateReport[]> {
    return this.all('update', (rank) => ({ name, engineSocket: this.engines[rank]!.socket, ...options }))
  }

  async close(): Promise<void> {
    await Promise.all(this.ranks.map(({ process }) => process.stop()))
    await Promise.all(this.engines.map(({ process }) => process.stop()))
    process.off('exit', this.#removeDirectory)
    this.#removeDirectory()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** A TCP port of the loopback interface that is free now. */
export async function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => (typeof address === 'object' && address ? resolve(address.port) : reject(new Error('no port'))))
    })
  })
}
