import type { GeneratedCheckpoint } from '@ckpt/testing'
import type { PeerCluster } from '../../peer/cluster.ts'
import { shareOf, withLinks } from '../../peer/links.ts'
import { timesOf } from '../../statistics.ts'
import { digestsOf, poisonAll, sameDigests } from '../engines.ts'
import type { PeerSample, Preparation } from './result.ts'

const NAME = 'bench'
/** Bucket sizes in GiB to try; the peer uses the best. */
const BUCKETS = [0.5, 1, 2]

export interface PeerOptions {
  readonly checkpoint: Pick<GeneratedCheckpoint, 'directory' | 'files'>
  readonly ranks: number
  readonly repeat: number
}

/** The peer's side of the measurement. Times are the slowest rank's, in milliseconds. */
export class Peer {
  readonly #cluster: PeerCluster
  readonly #options: PeerOptions
  /** Expected digests of all parameters after an update. */
  readonly #digests: ReadonlyMap<string, string>
  #parametersEqual = true

  constructor(cluster: PeerCluster, options: PeerOptions, digests: ReadonlyMap<string, string>) {
    this.#cluster = cluster
    this.#options = options
    this.#digests = digests
  }

  get version(): string {
    return this.#cluster.version
  }

  /** True if all parameters were right after every update. */
  get parametersEqual(): boolean {
    return this.#parametersEqual
  }

  /**
   * Runs the same steps as ours: the second registration of each kind counts, because memory never pinned before takes longer.
   * This system removes the files that it pins in place, so it gets links.
   */
  async prepare(onStep: (step: string) => void): Promise<Preparation> {
    const { files } = this.#options.checkpoint
    onStep('the peer registers in place')
    const registerInPlaceMs = await this.#twice('in place', () =>
      withLinks(this.#options.checkpoint, (links) => this.#register('in place', links, true)),
    )
    await this.#unregister('in place')
    onStep('the peer registers with a copy')
    const registerMs = await this.#twice(NAME, () => this.#register(NAME, files, false))
    onStep('the peer gathers metas')
    const gather = async () => (await this.#cluster.all('gather', () => ({ name: NAME }))).milliseconds
    const gatherMetasMs = await gather()
    const gatherMetasAgainMs = await timesOf(this.#options.repeat, gather)
    onStep('the peer’s first updates')
    await this.update()
    await this.update()
    return { registerMs, registerInPlaceMs, gatherMetasMs, gatherMetasAgainMs }
  }

  /** Keeps the communicator from now on, with the bucket size of the fastest update, which it returns in GiB. */
  async keepCommunicator(): Promise<number> {
    await this.#cluster.all('keep_communicator')
    let best = { gigabytes: 0, milliseconds: Infinity }
    for (const gigabytes of BUCKETS) {
      await this.#cluster.all('bucket', () => ({ gigabytes }))
      await this.update()
      const { milliseconds } = await this.update()
      if (milliseconds < best.milliseconds) best = { gigabytes, milliseconds }
    }
    await this.#cluster.all('bucket', () => ({ gigabytes: best.gigabytes }))
    return best.gigabytes
  }

  /** Updates overwritten parameters once and compares their digests afterwards. */
  async update(): Promise<PeerSample> {
    await poisonAll(this.#cluster.engines)
    const sample = await this.#cluster.all('update', () => ({ name: NAME }))
    this.#parametersEqual &&= sameDigests(this.#digests, await digestsOf(this.#cluster.engines))
    return sample
  }

  async #register(name: string, files: readonly string[], inplace: boolean): Promise<number> {
    const { ranks } = this.#options
    const share = (rank: number) => shareOf(files, rank, ranks)
    return (await this.#cluster.all('register', (rank) => ({ name, files: share(rank), inplace }))).milliseconds
  }

  async #twice(name: string, register: () => Promise<number>): Promise<number> {
    await register()
    await this.#unregister(name)
    return register()
  }

  async #unregister(name: string): Promise<void> {
    await this.#cluster.all('unregister', () => ({ name }))
  }
}
