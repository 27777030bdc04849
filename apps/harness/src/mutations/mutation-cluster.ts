import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { UpdateReport } from '@ckpt/core'
import {
  Cluster,
  type GeneratedCheckpoint,
  Hosts,
  type Isolation,
  type Mutation,
  type Random,
  type Verification,
  type Way,
} from '@ckpt/testing'

/** The hosts of `remote` updates differ by their names alone. */
export const REMOTE: Isolation = { net: false, shm: false, tmp: false, ipc: false, pid: false }

export interface MutationClusterOptions {
  readonly way: Way
  /** Checkpoints of the same tensors with different bytes; at least two, in /dev/shm. They are updated alternately. */
  readonly checkpoints: readonly GeneratedCheckpoint[]
  /** At least two; the last one and its engine worker are on a separate host in `remote` updates. */
  readonly ranks: number
}

/** Ranks and engine workers that are updated in one way; the first update, which is recorded, is over. */
export class MutationCluster implements AsyncDisposable {
  readonly way: Way
  readonly #cluster: Cluster
  /** Holds the checkpoints, in p2p updates. */
  readonly #owners: Cluster
  readonly #checkpoints: readonly GeneratedCheckpoint[]
  readonly #hosts: Hosts | undefined
  readonly #directory = mkdtempSync(join(tmpdir(), 'ckpt-mutations-'))
  #turn = 0
  #recorded = false
  #name: string | undefined

  private constructor(
    way: Way,
    cluster: Cluster,
    owners: Cluster,
    checkpoints: readonly GeneratedCheckpoint[],
    hosts: Hosts | undefined,
  ) {
    this.#hosts = hosts
    this.way = way
    this.#cluster = cluster
    this.#owners = owners
    this.#checkpoints = checkpoints
  }

  static async start({ way, checkpoints, ranks }: MutationClusterOptions): Promise<MutationCluster> {
    const hosts = way === 'remote' ? await Hosts.create({ count: 2, ...REMOTE }) : undefined
    const cluster = await Cluster.start({
      ranks,
      mutable: true,
      timeoutMs: 120_000,
      ...(hosts && {
        through: (rank: number) => hosts.hosts[rank === ranks - 1 ? 1 : 0]!.through,
        env: () => ({ CKPT_P2P_ADDRESS: '127.0.0.1' }),
      }),
      engine: {
        kind: 'typescript',
        checkpoint: checkpoints[0]!.directory,
        extra: () => (way === 'replayed' ? ['--unshared'] : []),
      },
    })
    try {
      const owners = way === 'p2p' ? await Cluster.start({ ranks, timeoutMs: 120_000 }) : cluster
      const made = new MutationCluster(way, cluster, owners, checkpoints, hosts)
      await made.register(made.next())
      await made.update()
      made.#recorded = true
      return made
    } catch (error) {
      await cluster.close()
      await hosts?.[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Returns the next checkpoint in turn. */
  next(): GeneratedCheckpoint {
    return this.#checkpoints[this.#turn++ % this.#checkpoints.length]!
  }

  /** Registers it under a new name, in place, with digests, and unregisters the previous one. */
  async register(checkpoint: GeneratedCheckpoint): Promise<void> {
    const before = this.#name
    const name = (this.#name = `step-${this.#turn}`)
    await this.#owners.register(name, checkpoint.directory, { inPlace: true })
    await this.#owners.all('gatherMetas', () => ({ name, digests: true }))
    if (before !== undefined) await this.#owners.all('unregister', () => ({ name: before }))
    if (this.#owners === this.#cluster) return
    const path = join(this.#directory, name)
    await this.#owners.ranks[0]!.call('saveMetas', { name, path })
    await this.#cluster.all('loadMetas', () => ({ path }))
  }

  /** Overwrites all parameters, so that no check passes on bytes of an earlier update. */
  async poison(): Promise<void> {
    await Promise.all(this.#cluster.engines.map((engine) => engine.poison()))
  }

  /** Sets the fault in one engine worker, or one rank. */
  async arm(engine: boolean, mutation: Mutation, random: Random): Promise<void> {
    const { engines, ranks } = this.#cluster
    if (engine) await random.pick(engines).mutate(mutation)
    else await random.pick(ranks).call('mutate', { mutation })
  }

  /** Removes faults that did not happen. */
  async disarm(): Promise<void> {
    await Promise.all(this.#cluster.engines.map((engine) => engine.mutate(null)))
    await this.#cluster.all('mutate', () => ({ mutation: null }))
  }

  update(): Promise<UpdateReport[]> {
    const ranks = this.#cluster.ranks.map(({ rank }) => rank)
    const written = this.way === 'direct' || this.way === 'remote'
    const strategy = this.way === 'staged' ? 'broadcast' : written && this.#recorded ? 'direct-required' : 'direct'
    return this.#cluster.update(this.#name!, { verify: 'bytes', ...(this.way === 'p2p' ? { p2p: ranks } : { strategy }) })
  }

  /** Compares what the engine workers read from the files themselves with their parameters. */
  compare(checkpoint: GeneratedCheckpoint): Promise<Verification[]> {
    return Promise.all(this.#cluster.engines.map((engine) => engine.verify(checkpoint.files)))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#owners !== this.#cluster) await this.#owners.close()
    await this.#cluster.close()
    await this.#hosts?.[Symbol.asyncDispose]()
    rmSync(this.#directory, { recursive: true, force: true })
  }
}
