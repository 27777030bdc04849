import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { UpdateReport } from '@ckpt/core'
import {
  EngineProcess,
  FaultyLink,
  freePort,
  type CopiedCheckpoint,
  type Hosts,
  type NamespaceHost,
  RankProcess,
  type RankUpdate,
} from '@ckpt/testing'

export interface FaultClusterOptions {
  readonly ranks: number
  /** Silence after which a rank, or the coordinator, is lost, in milliseconds. */
  readonly windowMs: number
  /** Deadline of every wait, in milliseconds. */
  readonly timeoutMs: number
  readonly checkpoint: CopiedCheckpoint
  /**
   * Uses rank r and a Python engine worker on GPU r, instead of the host device. Faults inside the worker are not available
   * there.
   */
  readonly gpus?: { readonly python: string }
  readonly bucketBytes?: number
  /** Hosts for the ranks, in turn; without them all ranks are processes of this machine. */
  readonly hosts?: Hosts
}

/** Strategy of an update. */
export const STRATEGIES = ['broadcast', 'p2p', 'direct'] as const
export type StrategyName = (typeof STRATEGIES)[number]

/** Name under which the campaign's checkpoint is registered on all ranks. */
export const CHECKPOINT = 'a'

/** Ranks and engine workers that can be damaged one by one and repaired. */
export class FaultCluster {
  readonly options: FaultClusterOptions
  readonly ranks: RankProcess[] = []
  readonly engines: EngineProcess[] = []
  /** Connection of each rank to the coordinator; rank 0, which runs it, has none. */
  readonly links: (FaultyLink | undefined)[] = []
  /** Connections over which others read from each rank. */
  readonly pulls: FaultyLink[] = []
  /** Processes that the campaign has ended. */
  readonly dead = new Set<number>()
  readonly #directory = mkdtempSync(join(tmpdir(), 'ckpt-faults-'))
  /** Secret of ranks that connect over a network. */
  readonly #token = randomBytes(24).toString('base64url')
  #port = 0

  private constructor(options: FaultClusterOptions) {
    this.options = options
  }

  static async start(options: FaultClusterOptions): Promise<FaultCluster> {
    const cluster = new FaultCluster(options)
    try {
      cluster.#port = await freePort()
      const all = Array.from({ length: options.ranks }, (_, rank) => rank)
      await Promise.all(
        all.map(async (rank) => {
          if (options.hosts === undefined) {
            cluster.links[rank] = rank === 0 ? undefined : await FaultyLink.open(cluster.#port)
            cluster.pulls[rank] = await FaultyLink.open(0)
          }
          await Promise.all([cluster.#startRank(rank), cluster.#startEngine(rank)])
        }),
      )
      await cluster.#join(all)
      await Promise.all(all.map((rank) => cluster.register(rank)))
      return cluster
    } catch (error) {
      await cluster.close()
      throw error
    }
  }

  get size(): number {
    return this.options.ranks
  }

  get everybody(): number[] {
    return Array.from({ length: this.size }, (_, rank) => rank)
  }

  /** Host of a rank, if the ranks are on hosts. */
  hostOf(rank: number): NamespaceHost | undefined {
    const hosts = this.options.hosts?.hosts
    return hosts?.[rank % hosts.length]
  }

  /** Process ids of running processes. */
  get pids(): number[] {
    return [...this.ranks, ...this.engines].map(({ process }) => process.child.pid!)
  }

  /** Registers a rank's share of the campaign's checkpoint. */
  async register(rank: number, inPlace = false): Promise<void> {
    const share = { index: rank, count: this.size }
    const source = { directory: this.options.checkpoint.directory }
    await this.ranks[rank]!.call('register', { name: CHECKPOINT, source, options: { share, inPlace } })
  }

  /** One rank's call of an update that all ranks make. */
  update(
    rank: number,
    {
      strategy = 'broadcast',
      ...options
    }: Omit<RankUpdate, 'name' | 'engineSocket' | 'strategy'> & { strategy?: StrategyName },
  ): Promise<UpdateReport> {
    const { socket } = this.engines[rank]!
    const { bucketBytes = 2 ** 18 } = this.options
    const how = { broadcast: {}, p2p: { p2p: this.everybody }, direct: { strategy: 'direct' as const } }[strategy]
    return this.ranks[rank]!.call('update', { name: CHECKPOINT, engineSocket: socket, bucketBytes, ...how, ...options })
  }

  /**
   * Prepares the next update of a strategy: metas for ranks that pull, a recording for ranks that write into parameters.
   * @throws Error if an update after it would not use this strategy.
   */
  async prepare(strategy: StrategyName): Promise<void> {
    if (strategy === 'p2p') {
      await Promise.all(this.ranks.map((rank) => rank.call('gatherMetas', { name: CHECKPOINT, digests: true })))
    }
    if (strategy !== 'direct') return
    const reports = await Promise.all(this.everybody.map((rank) => this.update(rank, { strategy, version: 'recorded' })))
    const staged = reports.find(
      (report) => report.strategy !== 'direct' && report.direct?.recorded?.startsWith('recorded') !== true,
    )
    if (staged) throw new Error(`no direct update is possible: ${JSON.stringify(staged.direct)}`)
  }

  /** Kills a rank's process, or its engine worker's. */
  async kill(what: 'rank' | 'engine', rank: number): Promise<void> {
    const { process } = (what === 'rank' ? this.ranks : this.engines)[rank]!
    this.dead.add(process.child.pid!)
    await process.stop('SIGKILL')
  }

  /**
   * Replaces ended processes, and lets ranks that are no longer members join again. Ranks whose process continues keep nothing:
   * only updates in which a rank is still a member check what it held before.
   */
  async heal(lost: readonly number[]): Promise<void> {
    for (const link of [...this.links, ...this.pulls]) link?.restore()
    for (const host of this.options.hosts?.hosts ?? []) host.restore()
    const ended = this.everybody.filter((rank) => !isRunning(this.ranks[rank]!))
    const leaving = lost.filter((rank) => !ended.includes(rank))
    // Rank 0 last, because it runs the coordinator.
    await Promise.all(leaving.filter((rank) => rank !== 0).map((rank) => this.ranks[rank]!.call('close', undefined)))
    if (leaving.includes(0)) await this.ranks[0]!.call('close', undefined)
    await Promise.all(
      this.everybody.map(async (rank) => {
        if (ended.includes(rank)) {
          this.dead.add(this.ranks[rank]!.process.child.pid!)
          await this.#startRank(rank)
        }
        if (!isRunning(this.engines[rank]!)) {
          this.dead.add(this.engines[rank]!.process.child.pid!)
          await this.#startEngine(rank)
        }
      }),
    )
    const joining = [...ended, ...leaving].sort((a, b) => a - b)
    if (joining.includes(0)) {
      this.#port = await freePort()
      for (const link of this.links) if (link) link.target = this.#port
    }
    await this.#join(joining)
    await Promise.all(joining.map((rank) => this.register(rank)))
  }

  async close(): Promise<void> {
    for (const { process } of [...this.ranks, ...this.engines]) process.child.kill('SIGCONT')
    await Promise.all(this.ranks.map(({ process }) => process.stop()))
    await Promise.all(this.engines.map(({ process }) => process.stop()))
    for (const link of [...this.links, ...this.pulls]) await link?.close()
    rmSync(this.#directory, { recursive: true, force: true })
  }

  #through(rank: number): { through?: readonly string[] } {
    const host = this.hostOf(rank)
    return host === undefined ? {} : { through: host.through }
  }

  async #startRank(rank: number): Promise<void> {
    this.ranks[rank] = new RankProcess(rank, this.#through(rank))
    await this.ranks[rank].ready
  }

  async #startEngine(rank: number): Promise<void> {
    const { directory } = this.options.checkpoint
    const { gpus } = this.options
    this.engines[rank] = new EngineProcess({
      ...(gpus ? { kind: 'python', python: gpus.python, device: 'cuda' } : { kind: 'typescript' }),
      directory: this.#directory,
      checkpoint: directory,
      tpRank: rank,
      tpSize: this.size,
      ...this.#through(rank),
    })
    await this.engines[rank].ready()
  }

  async #join(ranks: readonly number[]): Promise<void> {
    const { windowMs, timeoutMs } = this.options
    await Promise.all(
      ranks.map(async (rank) => {
        const pulls = this.pulls[rank]
        if (pulls) pulls.target = await freePort()
        await this.ranks[rank]!.call('create', {
          rank,
          worldSize: this.size,
          address: this.links[rank]?.address ?? `tcp://${this.hostOf(0)?.address ?? '127.0.0.1'}:${this.#port}`,
          ...(this.options.hosts && { token: this.#token }),
          keepAlive: false,
          timeoutMs,
          heartbeatMs: Math.max(20, Math.floor(windowMs / 10)),
          heartbeatTimeoutMs: windowMs,
          shareMemory: true,
          ...(pulls && { serve: { listen: [`127.0.0.1:${pulls.target}`], advertise: [`127.0.0.1:${pulls.port}`] } }),
          ...(this.options.gpus ? { gpu: rank } : { threads: 1 }),
        })
      }),
    )
  }
}

function isRunning({ process: { child } }: RankProcess | EngineProcess): boolean {
  return child.exitCode === null && child.signalCode === null
}
