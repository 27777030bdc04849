import { statSync } from 'node:fs'
import type { Host } from '@ckpt/contract'
import type { GeneratedCheckpoint } from '@ckpt/testing'
import type { Model } from '@ckpt/models'
import type { Ceilings, ReferenceRun, Skipped } from '../result.ts'
import { Calibration, type Beside } from './calibrate.ts'
import { copyProbe, measureCeilings } from './ceilings.ts'
import { measureUpdate } from './update.ts'
import type { UpdatesOptions } from './updates.ts'

/** A checkpoint to measure, generated on demand. */
export interface Scenario {
  readonly model: Pick<Model, 'id' | 'title'>
  readonly checkpoint: () => Promise<GeneratedCheckpoint>
}

export interface HostMeasurement {
  readonly host: Host
  readonly scenarios: readonly Scenario[]
  readonly strategies: readonly UpdatesOptions['strategy'][]
  readonly ranks: number
  readonly repeat: number
  readonly metricsPort?: number
  readonly say: (step: string) => void
}

/** Numbers of ranks at which the simulator's predictions are compared. Joiners have the same number of owners. */
const VALIDATED_RANKS = { broadcast: [1, 2, 4], direct: [1, 2, 4], p2p: [1, 2] } as const

/** Measurements on the host device. */
export class HostRuns {
  readonly runs: ReferenceRun[] = []
  readonly skipped: Skipped[] = []
  ceilings: Ceilings | undefined
  readonly #options: HostMeasurement

  constructor(options: HostMeasurement) {
    this.#options = options
  }

  /** Measures each checkpoint with each strategy. */
  async measure(): Promise<void> {
    for (const scenario of this.#options.scenarios) {
      using generated = await this.#generate(scenario)
      for (const strategy of this.#options.strategies) await this.#measure(scenario, generated, strategy, this.#options.ranks)
    }
  }

  /** Measures each strategy at several numbers of ranks, with a calibration for every sample. */
  async measureBesideCalibration(): Promise<void> {
    const { host, say } = this.#options
    for (const strategy of this.#options.strategies) {
      for (const ranks of VALIDATED_RANKS[strategy]) {
        say(`calibrating for ${strategy} over ${ranks}`)
        await using calibration = await Calibration.start(host, strategy, ranks)
        for (const scenario of this.#options.scenarios) {
          using generated = await this.#generate(scenario)
          const beside = await calibration.beside(scenario.model, generated.bytes)
          await this.#measure(scenario, generated, strategy, ranks, beside)
        }
      }
    }
  }

  async #generate({ model, checkpoint }: Scenario): Promise<GeneratedCheckpoint> {
    this.#options.say(`${model.title}: generating`)
    const generated = await checkpoint()
    const files = generated.files.map((path) => ({ path, bytes: statSync(path).size }))
    this.ceilings ??= await measureCeilings(this.#options.host, files)
    return generated
  }

  async #measure(
    { model }: Scenario,
    checkpoint: GeneratedCheckpoint,
    strategy: UpdatesOptions['strategy'],
    ranks: number,
    beside?: Beside,
  ): Promise<void> {
    const { host, repeat, metricsPort, say } = this.#options
    using copyCeiling = await copyProbe(host)
    const measured = await measureUpdate({
      model,
      checkpoint,
      ranks,
      repeat,
      copyCeiling,
      strategy,
      ...(beside && { beside }),
      ...(metricsPort !== undefined && { metricsPort }),
      onStep: (step) => say(`${model.title}, ${strategy} over ${ranks}: ${step}`),
    })
    if ('skipped' in measured) this.skipped.push({ what: `${strategy} of ${model.title}`, reason: measured.skipped })
    else this.runs.push(measured)
  }
}
