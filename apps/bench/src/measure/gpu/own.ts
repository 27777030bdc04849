import { CkptError } from '@ckpt/contract'
import type { UpdateReport } from '@ckpt/core'
import type { Cluster, GeneratedCheckpoint } from '@ckpt/testing'
import { timesOf } from '../../statistics.ts'
import { digestsOf, poisonAll, sameDigests } from '../engines.ts'
import type { OwnPreparation } from './result.ts'

const NAME = 'bench'

export interface OwnOptions {
  readonly checkpoint: Pick<GeneratedCheckpoint, 'directory' | 'files'>
  readonly strategy: 'broadcast' | 'direct'
  readonly repeat: number
  readonly bucketBytes?: number
  readonly chunkBytes?: number
}

/** ckpt's side of the measurement. Times are the slowest rank's, in milliseconds. */
export class Own {
  readonly #cluster: Cluster
  readonly #options: OwnOptions
  #digests: ReadonlyMap<string, string> = new Map()
  #parametersEqual = true
  #registrations = 0
  readonly #registerMs: number[] = []

  constructor(cluster: Cluster, options: OwnOptions) {
    this.#cluster = cluster
    this.#options = options
  }

  /** Digests of all parameters after the first update. */
  get digests(): ReadonlyMap<string, string> {
    return this.#digests
  }

  /** True if every byte was right after the first update, and all parameters were the same after each later one. */
  get parametersEqual(): boolean {
    return this.#parametersEqual
  }

  /** Times of the registrations that updates had of their own. */
  get registerMs(): readonly number[] {
    return this.#registerMs
  }

  /**
   * Runs everything up to the first timed update. Files are pinned in place and released; then they are copied to pinned
   * memory, as before every update, because files in place have small pages that some machines read several percent more slowly
   * than the memory of the limit. These updates create parameters, ring and communicator, and per-bucket preparations: they are
   * not samples.
   */
  async prepare(onStep: (step: string) => void): Promise<OwnPreparation> {
    const { checkpoint, repeat, strategy } = this.#options
    onStep('registering in place')
    const registerInPlaceMs = await this.#registerTwice('in place', true)
    await this.#cluster.all('unregister', () => ({ name: 'in place' }))
    onStep('registering with a copy')
    const registerMs = await this.#registerTwice(NAME, false)
    onStep('gathering metas')
    const gather = async () => slowestOf(await this.#cluster.all('gatherMetas', () => ({ name: NAME })))
    const gatherMetasMs = await gather()
    const gatherMetasAgainMs = await timesOf(repeat, gather)
    await this.#cluster.all('unregister', () => ({ name: NAME }))
    onStep('first update')
    await this.#register(true)
    const first = await this.#update(true)
    onStep('comparing every byte with the files')
    const { engines } = this.#cluster
    const checks = await Promise.all(engines.map((engine) => engine.verify(checkpoint.files)))
    this.#parametersEqual = checks.every((check) => check.verified)
    this.#digests = await digestsOf(engines)
    onStep('further updates')
    await this.update(true)
    // The first update was recorded if the strategy is direct; the next is direct, and prepared. The second direct update is
    // compared with the loader's own result on one layer: it is not a sample either.
    for (let i = 0; strategy === 'direct' && i < 2; i++) requireDirect(await this.update(true))
    return {
      registerMs,
      registerInPlaceMs,
      gatherMetasMs,
      gatherMetasAgainMs,
      firstAttachMs: Math.max(...first.map((report) => report.steps.attachMs)),
      parameterBytes: checks.reduce((sum, check) => sum + check.bytes, 0),
    }
  }

  /**
   * Updates overwritten parameters once, from a registration of its own, and compares their digests afterwards; verified as by
   * default.
   */
  async update(keepAlive: boolean, verify?: 'none'): Promise<UpdateReport[]> {
    this.#registerMs.push(await this.#register(verify !== 'none'))
    await poisonAll(this.#cluster.engines)
    const reports = await this.#update(keepAlive, verify)
    this.#parametersEqual &&= sameDigests(this.#digests, await digestsOf(this.#cluster.engines))
    return reports
  }

  /** Free memory of each rank's GPU, in bytes. */
  async freeBytes(): Promise<number[]> {
    return (await this.#cluster.all('deviceMemory', () => undefined)).map(({ free }) => free)
  }

  /** Memory of the largest rank, in bytes. */
  async peakHostBytes(): Promise<number> {
    const resources = await this.#cluster.all('resources', () => undefined)
    return Math.max(...resources.map((one) => one.peakResidentBytes))
  }

  /**
   * Returns the time of the second registration. The first prepares the system: memory never pinned before takes several times
   * as long.
   */
  async #registerTwice(name: string, inPlace: boolean): Promise<number> {
    const { directory } = this.#options.checkpoint
    await this.#cluster.register(name, directory, { inPlace })
    await this.#cluster.all('unregister', () => ({ name }))
    return slowestOf(await this.#cluster.register(name, directory, { inPlace }))
  }

  /** Registers the checkpoint like the next training step: under a new name, into the memory of the previous one. */
  async #register(digests: boolean): Promise<number> {
    if (this.#registrations > 0) await this.#cluster.all('unregister', () => ({ name: this.#name }))
    this.#registrations++
    const name = this.#name
    const registered = await this.#cluster.register(name, this.#options.checkpoint.directory, { pool: 'shared', digests })
    await this.#cluster.all('gatherMetas', () => ({ name, digests }))
    return slowestOf(registered)
  }

  get #name(): string {
    return `${NAME}-${this.#registrations}`
  }

  #update(keepAlive: boolean, verify?: 'none'): Promise<UpdateReport[]> {
    const { strategy, bucketBytes, chunkBytes } = this.#options
    return this.#cluster.update(this.#name, {
      strategy,
      keepAlive,
      ...(verify && { verify }),
      version: NAME,
      ...(bucketBytes !== undefined && { bucketBytes }),
      ...(chunkBytes !== undefined && { chunkBytes }),
    })
  }
}

const slowestOf = (answers: readonly { readonly milliseconds: number }[]): number =>
  Math.max(...answers.map(({ milliseconds }) => milliseconds))

/** @throws CkptError `UNSUPPORTED` with the reason why an update was not direct. */
function requireDirect([report]: readonly UpdateReport[]): void {
  if (report!.strategy === 'direct') return
  const { fallback = '', recorded = '' } = report!.direct ?? {}
  throw new CkptError('UNSUPPORTED', `no direct update: ${fallback} (${recorded})`)
}
