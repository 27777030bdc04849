import { randomBytes, randomInt } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { UpdateReport } from '@ckpt/core'
import getPort, { portNumbers } from 'get-port'
import { EngineProcess, type EngineProcessOptions } from './engine-process.ts'
import { RankProcess } from './rank-process.ts'
import type { RankCall, RankCalls, RankUpdate } from './rank-protocol.ts'

export interface ClusterOptions {
  readonly ranks: number
  /** IP address of the coordinator (default 127.0.0.1). */
  readonly coordinator?: string
  readonly keepAlive?: boolean
  readonly shareMemory?: boolean
  readonly timeoutMs?: number
  readonly heartbeatTimeoutMs?: number
  /** Ranks may be added. */
  readonly elastic?: boolean
  /** Port on which rank 0 serves metrics; rank r uses the r-th port after it. */
  readonly metricsPort?: number
  /** Threads of each rank. */
  readonly threads?: number
  /** Additional environment of each rank's process. */
  readonly env?: (rank: number) => NodeJS.ProcessEnv
  /** Command line that starts ranks and engine workers, such as `nsenter` with its arguments. */
  readonly through?: readonly string[] | ((rank: number) => readonly string[])
  /** Device of the engines' parameters (default host); with `cuda` rank r has GPU r. */
  readonly backend?: 'host' | 'cuda'
  /** Ranks' devices can be given faults (`mutate`). */
  readonly mutable?: boolean
  /** Present the host device's rings as CUDA memory, to workers with a stand-in for CUDA. */
  readonly standInCuda?: boolean
  /** Engine workers, one per rank; absent for clusters that only gather. */
  readonly engine?: Omit<EngineProcessOptions, 'directory' | 'tpRank' | 'tpSize' | 'extra'> & {
    /** Additional arguments for the engine worker of a rank. */
    readonly extra?: (rank: number) => readonly string[]
  }
}

/** Rank processes and their engine workers on this machine. `close` ends all of them and removes their files. */
export class Cluster implements AsyncDisposable {
  readonly ranks: RankProcess[]
  readonly engines: EngineProcess[]
  /** The secret of this run. */
  readonly token = randomBytes(24).toString('base64url')
  /** Address of the coordinator, `tcp://…`. */
  readonly address: string
  readonly #directory: string
  readonly #options: ClusterOptions
  readonly #removeDirectory = () => rmSync(this.#directory, { recursive: true, force: true })

  private constructor(options: ClusterOptions, directory: string, address: string) {
    this.address = address
    this.#options = options
    this.#directory = directory
    process.on('exit', this.#removeDirectory)
    this.engines = options.engine ? Array.from({ length: options.ranks }, (_, rank) => this.#startEngine(rank)) : []
    this.ranks = Array.from({ length: options.ranks }, (_, rank) => this.#newRank(rank))
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const address = `tcp://${options.coordinator ?? '127.0.0.1'}:${await freePort()}`
    const cluster = new Cluster(options, mkdtempSync(join(tmpdir(), 'ckpt-cluster-')), address)
    try {
      await Promise.all([...cluster.ranks.map((rank) => rank.ready), ...cluster.engines.map((engine) => engine.ready())])
      await Promise.all(cluster.ranks.map((rank) => cluster.#create(rank)))
      return cluster
    } catch (error) {
      await cluster.close()
      throw error
    }
  }

  #create(process: RankProcess): Promise<void> {
    const {
      keepAlive = false,
      shareMemory = false,
      timeoutMs = 60_000,
      standInCuda,
      mutable,
      elastic,
      heartbeatTimeoutMs,
      threads,
      backend,
      metricsPort,
    } = this.#options
    return process.call('create', {
      rank: process.rank,
      worldSize: this.ranks.length,
      address: this.address,
      token: this.token,
      keepAlive,
      shareMemory,
      timeoutMs,
      ...(standInCuda && { standInCuda: true }),
      ...(mutable && { mutable: true }),
      ...(elastic !== undefined && { elastic }),
      ...(metricsPort !== undefined && { metricsPort: metricsPort + process.rank }),
      ...(heartbeatTimeoutMs !== undefined && { heartbeatTimeoutMs }),
      ...(threads !== undefined && { threads }),
      ...(backend === 'cuda' && { gpu: process.rank }),
    })
  }

  #newRank(rank: number): RankProcess {
    const { env } = this.#options
    return new RankProcess(rank, { ...(env && { env: env(rank) }), ...this.#through(rank) })
  }

  #through(rank: number): { through?: readonly string[] } {
    const { through } = this.#options
    return through === undefined ? {} : { through: typeof through === 'function' ? through(rank) : through }
  }

  /** Kills a rank and restarts it, as a new incarnation without any checkpoint. */
  async restartRank(rank: number): Promise<void> {
    await this.ranks[rank]?.process.stop('SIGKILL')
    this.ranks[rank] = this.#newRank(rank)
    await this.ranks[rank].ready
    await this.#create(this.ranks[rank])
  }

  /** Workers of added ranks hold the same parts as the first ones, in a separate directory. */
  #engineDirectory(rank: number): string {
    const directory = join(this.#directory, String(Math.floor(rank / this.#options.ranks)))
    if (rank < this.#options.ranks) return this.#directory
    mkdirSync(directory, { recursive: true })
    return directory
  }

  /** Adds one rank with its engine worker. */
  async addRank(): Promise<void> {
    const rank = this.ranks.push(this.#newRank(this.ranks.length)) - 1
    this.engines.push(this.#startEngine(rank))
    await Promise.all([this.ranks[rank]!.ready, this.engines[rank]!.ready()])
    await this.#create(this.ranks[rank]!)
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
      directory: this.#engineDirectory(rank),
      tpRank: rank % this.#options.ranks,
      tpSize: this.#options.ranks,
      extra,
      ...this.#through(rank),
    })
  }

  /** Replaces the engine worker of a rank by a new process, without injected faults: only with these further arguments. */
  async restartEngine(rank: number, extra: readonly string[] = []): Promise<void> {
    await this.engines[rank]?.process.stop('SIGKILL')
    const { extra: _, ...engine } = this.#options.engine!
    this.engines[rank] = this.#newEngine(rank, engine, extra)
    await this.engines[rank].ready()
  }

  /** Makes the same call on every rank at once. */
  all<K extends RankCall>(call: K, argument: (rank: number) => RankCalls[K][0]): Promise<RankCalls[K][1][]> {
    return Promise.all(this.ranks.map((rank) => rank.call(call, argument(rank.rank))))
  }

  /** Like `all`, but waits for every rank and returns each one's outcome. */
  settle<K extends RankCall>(
    call: K,
    argument: (rank: number) => RankCalls[K][0],
  ): Promise<PromiseSettledResult<RankCalls[K][1]>[]> {
    return Promise.allSettled(this.ranks.map((rank) => rank.call(call, argument(rank.rank))))
  }

  /** Lets every rank register its share of the checkpoint's files. */
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

  /** Updates all engine workers once. */
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

/** First port that is used for outgoing connections (net.ipv4.ip_local_port_range). */
const PORTS_END = 32_768

/**
 * Returns a free TCP port below the system's ports for outgoing connections: until a process listens on it, such a port could
 * become the own end of a connection.
 */
export function freePort(): Promise<number> {
  return getPort({ port: portNumbers(randomInt(20_000, 32_000), PORTS_END - 1) })
}

/** Returns the first of `count` consecutive free ports. */
export async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const first = randomInt(20_000, PORTS_END - count)
    const row = Array.from({ length: count }, (_, i) => first + i)
    const given = await Promise.all(row.map((port) => getPort({ port })))
    if (given.every((port, i) => port === row[i])) return first
  }
  throw new Error(`no ${count} free ports in a row`)
}
