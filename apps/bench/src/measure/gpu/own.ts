import { CkptError } from '@ckpt/contract'
import type { UpdateReport } from '@ckpt/core'
import type { Cluster, GeneratedCheckpoint } from '@ckpt/harness'
import { summarize, timesOf } from '../../statistics.ts'
import { digestsOf, poisonAll, sameDigests } from '../engines.ts'
import type { OwnFacts } from './result.ts'

const NAME = 'bench'

export interface OwnOptions {
  readonly checkpoint: Pick<GeneratedCheckpoint, 'directory' | 'files'>
  readonly strategy: 'broadcast' | 'direct'
  readonly repeat: number
  readonly bucketBytes?: number
  readonly chunkBytes?: number
}

/** Our side of the measurement, step by step. Times are the slowest rank's, in milliseconds. */
export class Own {
  readonly #cluster: Cluster
  readonly #options: OwnOptions
  #digests: ReadonlyMap<string, string> = new Map()
  #facts: OwnFacts = {
    registerMs: 0,
    registerInPlaceMs: 0,
    gatherMetasMs: 0,
    gatherMetasAgainMs: summarize([0]),
    firstAttachMs: 0,
    verified: true,
    verifiedBytes: 0,
  }

  constructor(cluster: Cluster, options: OwnOptions) {
    this.#cluster = cluster
    this.#options = options
  }

  get facts(): OwnFacts {
    return this.#facts
  }

  /** Digests of all parameters as the first update left them, whose bytes are those of the files. */
  get digests(): ReadonlyMap<string, string> {
    return this.#digests
  }

  /** Pins the files where they are, and gives that back. */
  async registerInPlace(): Promise<void> {
    this.#note({ registerInPlaceMs: await this.#registerTwice('in place', true) })
    await this.#cluster.all('unregister', () => ({ name: 'in place' }))
  }

  /**
   * Copies the files' bytes to pinned memory, and keeps that: it is what updates read. Files in place have small pages, which some
   * machines read several percent slower than what the limit is measured with.
   */
  async registerByCopy(): Promise<void> {
    this.#note({ registerMs: await this.#registerTwice(NAME, false) })
  }

  async gather(): Promise<void> {
    const once = async () => slowestOf(await this.#cluster.all('gatherMetas', () => ({ name: NAME })))
    this.#note({ gatherMetasMs: await once() })
    this.#note({ gatherMetasAgainMs: await timesOf(this.#options.repeat, once) })
  }

  /**
   * The updates that make parameters, ring and communicator and prepare what is prepared per bucket: they are no samples. After the
   * first, every byte is compared with the files.
   */
  async first(comparing: () => void): Promise<void> {
    const reports = await this.#update(true, false)
    comparing()
    const { engines } = this.#cluster
    const checks = await Promise.all(engines.map((engine) => engine.verify(this.#options.checkpoint.files)))
    this.#digests = await digestsOf(engines)
    this.#note({
      firstAttachMs: Math.max(...reports.map((report) => report.steps.attachMs)),
      verified: checks.every((check) => check.verified),
      verifiedBytes: checks.reduce((sum, check) => sum + check.bytes, 0),
    })
    await this.update(true)
    if (this.#options.strategy !== 'direct') return
    // That one was recorded; the next is direct, and prepared.
    const [report] = await this.update(true)
    if (report!.strategy === 'direct') return
    const { fallback = '', recorded = '' } = report!.direct ?? {}
    throw new CkptError('UNSUPPORTED', `no direct update: ${fallback} (${recorded})`)
  }

  /** One update of parameters that were overwritten, and whose digests are compared after it. With `verify`, a digest a tensor too. */
  async update(keepAlive: boolean, verify = false): Promise<UpdateReport[]> {
    await poisonAll(this.#cluster.engines)
    const reports = await this.#update(keepAlive, verify)
    const same = sameDigests(this.#digests, await digestsOf(this.#cluster.engines))
    this.#note({ verified: this.#facts.verified && same })
    return reports
  }

  /** Free memory of each rank's GPU, in bytes. */
  async freeBytes(): Promise<number[]> {
    return (await this.#cluster.all('deviceMemory', () => undefined)).map(({ free }) => free)
  }

  /** Of the largest rank, in bytes. */
  async peakHostBytes(): Promise<number> {
    const resources = await this.#cluster.all('resources', () => undefined)
    return Math.max(...resources.map((one) => one.peakResidentBytes))
  }

  #note(facts: Partial<OwnFacts>): void {
    this.#facts = { ...this.#facts, ...facts }
  }

  /** How long the second registration takes. The first is for the system: memory never pinned before takes several times as long. */
  async #registerTwice(name: string, inPlace: boolean): Promise<number> {
    const { directory } = this.#options.checkpoint
    await this.#cluster.register(name, directory, { inPlace })
    await this.#cluster.all('unregister', () => ({ name }))
    return slowestOf(await this.#cluster.register(name, directory, { inPlace }))
  }

  #update(keepAlive: boolean, verify: boolean): Promise<UpdateReport[]> {
    const { strategy, bucketBytes, chunkBytes } = this.#options
    return this.#cluster.update(NAME, {
      strategy,
      keepAlive,
      verify,
      version: NAME,
      ...(bucketBytes !== undefined && { bucketBytes }),
      ...(chunkBytes !== undefined && { chunkBytes }),
    })
  }
}

const slowestOf = (answers: readonly { readonly milliseconds: number }[]): number =>
  Math.max(...answers.map(({ milliseconds }) => milliseconds))
