import { PeerRanks } from '../peer/ranks.ts'
import { shareOf, withLinks } from '../peer/links.ts'
import type { EngineCheckpoints } from './checkpoints.ts'
import type { PeerSetting } from './turns.ts'

/** One step of checkpoint-engine; the slowest rank's times in milliseconds. */
export interface PeerStep {
  readonly registerMs: number
  readonly gatherMetasMs: number
  readonly updateMs: number
  readonly peakDeviceBytes: number
}

export interface PeerOptions {
  readonly python: string
  readonly ranks: number
  readonly checkpoints: EngineCheckpoints
}

/** checkpoint-engine's side: its ranks live as long as the measurement and update the server that ours update. */
export class Peer implements AsyncDisposable {
  readonly #ranks: PeerRanks
  readonly #options: PeerOptions
  #setting: PeerSetting = 'auto'
  #steps = 0
  #registered: string | undefined

  private constructor(ranks: PeerRanks, options: PeerOptions) {
    this.#ranks = ranks
    this.#options = options
  }

  /** Starts the ranks, for the server at `url`. @throws CkptError `NATIVE_FAILURE` with the output of a rank. */
  static async start(url: string, options: PeerOptions): Promise<Peer> {
    const engines = Array.from({ length: options.ranks }, () => url)
    return new Peer(await PeerRanks.start(options.python, engines), options)
  }

  get version(): string {
    return this.#ranks.version
  }

  /**
   * Makes one step as a training loop does: a new registration from files that are pinned in place, as its default is, if they
   * lie in /dev/shm. It removes these, so it gets links, which are not timed.
   */
  async step(checkpoint: 'A' | 'B', setting: PeerSetting): Promise<PeerStep> {
    const { checkpoints, ranks } = this.#options
    if (setting === 'kept' && this.#setting === 'auto') await this.#ranks.all('keep_communicator')
    this.#setting = setting
    const name = `step-${++this.#steps}`
    const earlier = this.#registered
    const released = earlier === undefined ? 0 : (await this.#ranks.all('unregister', () => ({ name: earlier }))).milliseconds
    this.#registered = undefined
    const registered = await withLinks(checkpoints[checkpoint], (files) =>
      this.#ranks.all('register', (rank) => ({ name, files: shareOf(files, rank, ranks), inplace: true })),
    )
    this.#registered = name
    const gathered = await this.#ranks.all('gather', () => ({ name }))
    const { milliseconds, peakDeviceBytes } = await this.#ranks.all('update', () => ({ name }))
    return {
      registerMs: released + registered.milliseconds,
      gatherMetasMs: gathered.milliseconds,
      updateMs: milliseconds,
      peakDeviceBytes,
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ranks[Symbol.asyncDispose]()
  }
}
