import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { UpdateReport } from '@ckpt/core'
import { Cluster, type EngineProcess, type GeneratedCheckpoint, type RankResources } from '@ckpt/harness'

export interface UpdatesOptions {
  readonly checkpoint: Omit<GeneratedCheckpoint, keyof Disposable>
  /** With `p2p` the ranks join from the saved metas of as many others, which hold the checkpoint, over TCP on this machine. */
  readonly ranks: number
  readonly strategy: 'broadcast' | 'direct' | 'p2p'
  /** Port on which rank 0 serves its numbers meanwhile. */
  readonly metricsPort?: number
  readonly onStep?: (step: string) => void
}

/** Rank processes and engine workers on the host device with a registered checkpoint, ready to be updated by one strategy. */
export class Updates implements AsyncDisposable {
  /** Of the slowest rank, in milliseconds. */
  readonly registerMs: number
  readonly gatherMetasMs: number
  readonly #cluster: Cluster
  readonly #owners: Cluster | undefined
  readonly #strategy: UpdatesOptions['strategy']

  private constructor(
    cluster: Cluster,
    owners: Cluster | undefined,
    strategy: UpdatesOptions['strategy'],
    times: { readonly registerMs: number; readonly gatherMetasMs: number },
  ) {
    this.#cluster = cluster
    this.#owners = owners
    this.#strategy = strategy
    this.registerMs = times.registerMs
    this.gatherMetasMs = times.gatherMetasMs
  }

  static async start({ checkpoint, ranks, strategy, metricsPort, onStep }: UpdatesOptions): Promise<Updates> {
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
      const owners = others ?? cluster
      onStep?.('registering')
      // Ranks read each other's memory in direct updates: they have to be able to map it.
      const registered = await owners.register('bench', checkpoint.directory, {
        inPlace: strategy === 'direct' && inShm(checkpoint),
      })
      const gathered = await owners.all('gatherMetas', () => ({ name: 'bench', digests: pulls }))
      if (pulls) await loadMetas(owners, cluster)
      return new Updates(cluster, others, strategy, {
        registerMs: Math.max(...registered.map(({ milliseconds }) => milliseconds)),
        gatherMetasMs: Math.max(...gathered.map(({ milliseconds }) => milliseconds)),
      })
    } catch (error) {
      await others?.close()
      await cluster.close()
      throw error
    }
  }

  get engines(): readonly EngineProcess[] {
    return this.#cluster.engines
  }

  /** One update of all engine workers. */
  update(version: string, verify = false): Promise<UpdateReport[]> {
    const way = this.#strategy === 'p2p' ? { p2p: this.#cluster.ranks.map(({ rank }) => rank) } : { strategy: this.#strategy }
    return this.#cluster.update('bench', { verify, version, ...way })
  }

  /** For the ranks' metrics. */
  async noteLimit(reports: readonly UpdateReport[], limitMs: number): Promise<void> {
    await this.#cluster.all('noteLimit', (rank) => ({ totalMs: reports[rank]!.totalMs, limitMs }))
  }

  resources(): Promise<RankResources[]> {
    return this.#cluster.all('resources', () => undefined)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owners?.close()
    await this.#cluster.close()
  }
}

/** Whether other processes can map the files as memory. */
export function inShm({ directory }: Pick<GeneratedCheckpoint, 'directory'>): boolean {
  return directory.startsWith('/dev/shm/')
}

/** The slowest rank's time, in milliseconds. */
export function slowest(reports: readonly UpdateReport[]): number {
  return Math.max(...reports.map(({ totalMs }) => totalMs))
}

/** Has `joining` learn what `owners` hold as a new instance does, from a file. */
async function loadMetas(owners: Cluster, joining: Cluster): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-bench-metas-'))
  try {
    const path = join(directory, 'metas')
    await owners.ranks[0]!.call('saveMetas', { name: 'bench', path })
    await joining.all('loadMetas', () => ({ path }))
  } finally {
    rmSync(directory, { recursive: true })
  }
}
