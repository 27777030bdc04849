import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { UpdateReport, VerificationLevel } from '@ckpt/core'
import { Cluster, type EngineProcess, type GeneratedCheckpoint, type RankResources } from '@ckpt/testing'

const LEVELS: readonly VerificationLevel[] = ['none', 'sources', 'bytes']

export interface UpdatesOptions {
  readonly checkpoint: Omit<GeneratedCheckpoint, keyof Disposable>
  /**
   * With `p2p` the ranks join from the saved metas of the same number of others, which hold the checkpoint, over TCP on this
   * machine.
   */
  readonly ranks: number
  readonly strategy: 'broadcast' | 'direct' | 'p2p'
  /** Port on which rank 0 serves metrics meanwhile. */
  readonly metricsPort?: number
  readonly onStep?: (step: string) => void
}

/** Rank processes and engine workers on the host device with a registered checkpoint, ready to be updated with one strategy. */
export class Updates implements AsyncDisposable {
  readonly #cluster: Cluster
  readonly #owners: Cluster
  readonly #options: UpdatesOptions
  #registrations = 0
  #registerMs: readonly number[] = []
  #gatherMetasMs = 0

  private constructor(cluster: Cluster, owners: Cluster, options: UpdatesOptions) {
    this.#cluster = cluster
    this.#owners = owners
    this.#options = options
  }

  static async start(options: UpdatesOptions): Promise<Updates> {
    const { checkpoint, ranks, strategy, metricsPort, onStep } = options
    onStep?.('starting processes')
    const pulls = strategy === 'p2p'
    const threads = Math.max(1, Math.floor(cpus().length / ranks))
    const cluster = await Cluster.start({
      ranks,
      threads,
      keepAlive: true,
      ...(metricsPort !== undefined && { metricsPort }),
      engine: { kind: 'typescript', checkpoint: checkpoint.directory },
    })
    let others: Cluster | undefined
    try {
      others = pulls ? await Cluster.start({ ranks, threads }) : undefined
      const updates = new Updates(cluster, others ?? cluster, options)
      onStep?.('registering')
      await updates.register(true)
      return updates
    } catch (error) {
      await others?.close()
      await cluster.close()
      throw error
    }
  }

  get engines(): readonly EngineProcess[] {
    return this.#cluster.engines
  }

  /** Slowest rank's time for each registration, in milliseconds. */
  get registerMs(): readonly number[] {
    return this.#registerMs
  }

  /** The same for gathering the metas of the first one. */
  get gatherMetasMs(): number {
    return this.#gatherMetasMs
  }

  /**
   * Registers the checkpoint like the next training step: under a new name, after unregistering the previous one, into its
   * memory. `digests` is set if it will be verified. Resolves to the time that every step needs of this, in milliseconds.
   */
  async register(digests: boolean): Promise<number> {
    const { strategy, checkpoint } = this.#options
    if (this.#registrations > 0) await this.#owners.all('unregister', () => ({ name: this.#name }))
    this.#registrations++
    const name = this.#name
    // Ranks read each other's memory in direct updates, so they must be able to map it.
    const inPlace = strategy === 'direct' && inShm(checkpoint)
    const options = inPlace ? { inPlace, digests } : { pool: 'shared' as const, digests }
    const registered = slowestOf(await this.#owners.register(name, checkpoint.directory, options))
    this.#registerMs = [...this.#registerMs, registered]
    // Later updates gather them themselves, unless they are pulled by ranks that have only the file.
    const pulls = strategy === 'p2p'
    if (this.#registrations > 1 && !pulls) return registered
    const gathered = slowestOf(await this.#owners.all('gatherMetas', () => ({ name, digests: pulls && digests })))
    if (this.#registrations === 1) this.#gatherMetasMs = gathered
    if (!pulls) return registered
    await loadMetas(name, this.#owners, this.#cluster)
    return registered + gathered
  }

  /** Updates all engine workers once, with the last registered checkpoint. */
  update(version: string, verify: VerificationLevel): Promise<UpdateReport[]> {
    const { strategy } = this.#options
    const way = strategy === 'p2p' ? { p2p: this.#cluster.ranks.map(({ rank }) => rank) } : { strategy }
    return this.#cluster.update(this.#name, { verify, version, ...way })
  }

  get #name(): string {
    return `bench-${this.#registrations}`
  }

  /** For the ranks' metrics. */
  async recordLimit(reports: readonly UpdateReport[], limitMs: number): Promise<void> {
    await this.#cluster.all('recordLimit', (rank) => ({ totalMs: reports[rank]!.totalMs, limitMs }))
  }

  resources(): Promise<RankResources[]> {
    return this.#cluster.all('resources', () => undefined)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#owners !== this.#cluster) await this.#owners.close()
    await this.#cluster.close()
  }
}

/** Returns true if other processes can map the files as memory. */
export function inShm({ directory }: Pick<GeneratedCheckpoint, 'directory'>): boolean {
  return directory.startsWith('/dev/shm/')
}

/** Returns the lowest verification level of the reports. */
export function lowestLevel(reports: readonly UpdateReport[]): VerificationLevel {
  return LEVELS.find((level) => reports.some(({ verified }) => verified === level)) ?? 'none'
}

/** Returns the slowest rank's time, in milliseconds. */
export function slowest(reports: readonly UpdateReport[]): number {
  return Math.max(...reports.map(({ totalMs }) => totalMs))
}

/** Loads the metas of `owners` into `joining` from a file, like a new instance. */
async function loadMetas(name: string, owners: Cluster, joining: Cluster): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-bench-metas-'))
  try {
    const path = join(directory, 'metas')
    await owners.ranks[0]!.call('saveMetas', { name, path })
    await joining.all('loadMetas', () => ({ path }))
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const slowestOf = (answers: readonly { readonly milliseconds: number }[]): number =>
  Math.max(...answers.map(({ milliseconds }) => milliseconds))
