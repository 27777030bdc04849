import { linkSync, mkdirSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { GeneratedCheckpoint } from '@ckpt/harness'
import type { PeerCluster } from '../../peer/ranks.ts'
import { summarize, timesOf } from '../../statistics.ts'
import { digestsOf, poisonAll, sameDigests } from '../engines.ts'
import type { PeerFacts, PeerSample } from './result.ts'

const NAME = 'bench'
/** Bucket sizes in GiB of which the peer gets the best. */
const BUCKETS = [0.5, 1, 2]

export interface PeerOptions {
  readonly checkpoint: Pick<GeneratedCheckpoint, 'directory' | 'files'>
  readonly ranks: number
  readonly repeat: number
}

/** The peer's side of the measurement, step by step. Times are the slowest rank's, in milliseconds. */
export class Peer {
  readonly #cluster: PeerCluster
  readonly #options: PeerOptions
  readonly #asItComes: PeerSample[] = []
  readonly #atItsBest: PeerSample[] = []
  #facts: Omit<PeerFacts, 'asItComes' | 'atItsBest'>

  constructor(cluster: PeerCluster, options: PeerOptions) {
    this.#cluster = cluster
    this.#options = options
    this.#facts = {
      version: cluster.version,
      registerMs: 0,
      registerInPlaceMs: 0,
      gatherMetasMs: 0,
      gatherMetasAgainMs: summarize([0]),
      verified: true,
      bestBucket: 0,
    }
  }

  get facts(): PeerFacts {
    return { ...this.#facts, asItComes: this.#asItComes, atItsBest: this.#atItsBest }
  }

  /** Pins the files where they are, and gives that back. It removes what it pins, so it gets links. */
  async registerInPlace(): Promise<void> {
    const { directory, files } = this.#options.checkpoint
    const folder = join(dirname(directory), `${basename(directory)}-links`)
    mkdirSync(folder, { mode: 0o700 })
    try {
      const links = files.map((file) => join(folder, basename(file)))
      files.forEach((file, index) => linkSync(file, links[index]!))
      this.#note({ registerInPlaceMs: await this.#register('in place', links, true) })
      await this.#cluster.all('unregister', () => ({ name: 'in place' }))
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  /** Copies the files' bytes to pinned memory, and keeps that. */
  async registerByCopy(): Promise<void> {
    this.#note({ registerMs: await this.#register(NAME, this.#options.checkpoint.files, false) })
  }

  async gather(): Promise<void> {
    const once = async () => (await this.#cluster.all('gather', () => ({ name: NAME }))).milliseconds
    this.#note({ gatherMetasMs: await once() })
    this.#note({ gatherMetasAgainMs: await timesOf(this.#options.repeat, once) })
  }

  /** Updates that are no samples, after which all parameters must have the digests `expected`. */
  async first(expected: ReadonlyMap<string, string>): Promise<void> {
    await this.#update(expected)
    await this.#update(expected)
  }

  async asItComes(expected: ReadonlyMap<string, string>): Promise<void> {
    this.#asItComes.push(await this.#update(expected))
  }

  /** After {@link keepCommunicator}. */
  async atItsBest(expected: ReadonlyMap<string, string>): Promise<void> {
    this.#atItsBest.push(await this.#update(expected))
  }

  /** Keeps the communicator from now on, and the bucket size with which an update is fastest. */
  async keepCommunicator(expected: ReadonlyMap<string, string>): Promise<void> {
    await this.#cluster.all('keep_communicator')
    let best = { gigabytes: 0, milliseconds: Infinity }
    for (const gigabytes of BUCKETS) {
      await this.#cluster.all('bucket', () => ({ gigabytes }))
      await this.#update(expected)
      const { milliseconds } = await this.#update(expected)
      if (milliseconds < best.milliseconds) best = { gigabytes, milliseconds }
    }
    await this.#cluster.all('bucket', () => ({ gigabytes: best.gigabytes }))
    this.#note({ bestBucket: best.gigabytes })
  }

  #note(facts: Partial<PeerFacts>): void {
    this.#facts = { ...this.#facts, ...facts }
  }

  /** The files are dealt out evenly in order, as this system's users do. */
  async #register(name: string, files: readonly string[], inplace: boolean): Promise<number> {
    const { ranks } = this.#options
    const first = (rank: number) => Math.round((files.length * rank) / ranks)
    const share = (rank: number) => files.slice(first(rank), first(rank + 1))
    return (await this.#cluster.all('register', (rank) => ({ name, files: share(rank), inplace }))).milliseconds
  }

  async #update(expected: ReadonlyMap<string, string>): Promise<PeerSample> {
    await poisonAll(this.#cluster.engines)
    const sample = await this.#cluster.all('update', () => ({ name: NAME }))
    const same = sameDigests(expected, await digestsOf(this.#cluster.engines))
    this.#note({ verified: this.#facts.verified && same })
    return sample
  }
}
