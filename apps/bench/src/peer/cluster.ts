import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { EngineProcess } from '@ckpt/testing'
import { PeerRanks, type PeerCall } from './ranks.ts'

const WORKER = fileURLToPath(new URL('./checkpoint_engine_worker.py', import.meta.url))

/** checkpoint-engine from PyPI: a rank and an engine worker per GPU, with the same reference engine as ours. */
export class PeerCluster implements AsyncDisposable {
  readonly engines: readonly EngineProcess[]
  readonly #ranks: PeerRanks
  readonly #directory: string

  private constructor(engines: readonly EngineProcess[], ranks: PeerRanks, directory: string) {
    this.engines = engines
    this.#ranks = ranks
    this.#directory = directory
  }

  /** @throws CkptError `NATIVE_FAILURE` or `ENGINE_UNREACHABLE` with the output of a process. */
  static async start(options: { python: string; ranks: number; checkpoint: string }): Promise<PeerCluster> {
    const { python, ranks: size, checkpoint } = options
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-peer-'))
    const engines = Array.from(
      { length: size },
      (_, rank) =>
        new EngineProcess({
          kind: 'python',
          python,
          program: WORKER,
          device: 'cuda',
          directory,
          checkpoint,
          tpRank: rank,
          tpSize: size,
        }),
    )
    try {
      const sockets = engines.map(({ socket }) => socket)
      const ready = engines.map((engine) => engine.ready(120_000))
      const [ranks] = await Promise.all([PeerRanks.start(python, sockets), ...ready])
      return new PeerCluster(engines, ranks, directory)
    } catch (error) {
      await stopEngines(engines, directory)
      throw error
    }
  }

  get version(): string {
    return this.#ranks.version
  }

  /** Makes one call on every rank at once; the slowest rank's time counts. */
  all(call: string, argument?: (rank: number) => Record<string, unknown>): Promise<PeerCall> {
    return this.#ranks.all(call, argument)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ranks[Symbol.asyncDispose]()
    await stopEngines(this.engines, this.#directory)
  }
}

async function stopEngines(engines: readonly EngineProcess[], directory: string): Promise<void> {
  await Promise.all(engines.map((engine) => engine.process.stop()))
  rmSync(directory, { recursive: true, force: true })
}
