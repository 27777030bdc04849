import { cpus } from 'node:os'
import type { Host } from '@ckpt/contract'
import { generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/testing'
import { checkpointTensors, model as findModel, type CheckpointTensor, type Model } from '@ckpt/models'
import type { ProcessorReading } from '@ckpt/planner'
import { summarize } from '../statistics.ts'
import { poisonAll } from './engines.ts'
import { sliceProbe } from './slices.ts'
import { Updates, slowest } from './updates.ts'

const MIB = 2 ** 20
/** What rates are read from: updates of this model, so large and so small. */
const MODEL = 'llama-3.1-8b'
const LARGE_BYTES = 1024 * MIB
const SMALL_BYTES = 16 * MIB
/** Updates of each size in one reading, of which the median counts. */
const REPEAT = 3
/** Updates before the first reading: they make ring, collective and recordings, and compile what is run often. */
export const WARM_UP = 4
/** Readings of two models' slices right after each other, of whose ratios the median counts. */
const SLICE_PAIRS = 31

type Strategy = 'broadcast' | 'direct' | 'p2p'

/**
 * What this machine's processors need for the parts of an update, read again and again beside the updates that are to be predicted,
 * since what else the physical machine does moves it within seconds. All of it comes from updates of another model over as many ranks:
 * one of 16 MiB, for what lies before and after the pipeline, and one of 1 GiB, as large as those that are validated, for what bytes take.
 */
export class Calibration implements AsyncDisposable {
  readonly #host: Host
  readonly #strategy: Strategy
  readonly #ranks: number
  readonly #small: SmallUpdates
  readonly #large: SmallUpdates

  private constructor(host: Host, strategy: Strategy, ranks: number, small: SmallUpdates, large: SmallUpdates) {
    this.#host = host
    this.#strategy = strategy
    this.#ranks = ranks
    this.#small = small
    this.#large = large
  }

  static async start(host: Host, strategy: Strategy, ranks: number): Promise<Calibration> {
    const small = await SmallUpdates.start(host, SMALL_BYTES, ranks, strategy)
    try {
      return new Calibration(host, strategy, ranks, small, await SmallUpdates.start(host, LARGE_BYTES, ranks, strategy))
    } catch (error) {
      await small[Symbol.asyncDispose]()
      throw error
    }
  }

  /** What reads the rates for updates of `model`, cut to `bytes`. */
  async beside(model: Pick<Model, 'id'>, bytes: number): Promise<Beside> {
    const sliced = await this.#sliceRatio(checkpointTensors(findModel(model.id), { bytes }))
    return { read: () => this.#read(sliced) }
  }

  async #read(sliced: number): Promise<ProcessorReading> {
    const processors = cpus().length
    const small = await this.#small.seconds(REPEAT)
    const large = await this.#large.seconds(REPEAT)
    const perByte = Math.max(1e-4, large - small) / (LARGE_BYTES - SMALL_BYTES)
    // Bytes that are copied for each byte of the checkpoint: what all workers keep together, to each other rank, and H2D; what is
    // pulled instead is copied into the sending socket and out of the receiving one.
    const copies = this.#strategy === 'direct' ? 1 : this.#ranks + (this.#strategy === 'p2p' ? 2 : 1)
    const copyRate = copies / (perByte * processors)
    return {
      processors,
      copyRate,
      reloadRate: copyRate * sliced,
      tcpRate: copyRate / 2,
      updateSeconds: Math.max(0, small - perByte * SMALL_BYTES),
    }
  }

  /** How fast this model's slices are taken, in terms of the calibration's own. */
  async #sliceRatio(tensors: readonly CheckpointTensor[]): Promise<number> {
    const own = checkpointTensors(findModel(MODEL), { bytes: LARGE_BYTES })
    using theirs = await sliceProbe(this.#host, tensors, this.#ranks)
    using ours = await sliceProbe(this.#host, own, this.#ranks)
    const ratios: number[] = []
    for (let i = 0; i < SLICE_PAIRS; i++) ratios.push((await theirs.read()) / (await ours.read()))
    return summarize(ratios).median
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#large[Symbol.asyncDispose]()
    await this.#small[Symbol.asyncDispose]()
  }
}

/** Reads the rates beside the updates of one run. */
export interface Beside {
  read(): Promise<ProcessorReading>
}

/** Updates of the calibration's model, again and again. */
class SmallUpdates implements AsyncDisposable {
  readonly #checkpoint: GeneratedCheckpoint
  readonly #updates: Updates
  #version = 0

  private constructor(checkpoint: GeneratedCheckpoint, updates: Updates) {
    this.#checkpoint = checkpoint
    this.#updates = updates
  }

  static async start(host: Host, bytes: number, ranks: number, strategy: Strategy): Promise<SmallUpdates> {
    const label = `calibration-${strategy}-${ranks}-${bytes}`
    const checkpoint = await generateCheckpoint(host, findModel(MODEL), bytes, 7n, label)
    try {
      const small = new SmallUpdates(checkpoint, await Updates.start({ checkpoint, ranks, strategy }))
      await small.seconds(WARM_UP)
      return small
    } catch (error) {
      checkpoint[Symbol.dispose]()
      throw error
    }
  }

  /** The median of so many updates, in seconds. */
  async seconds(count: number): Promise<number> {
    const samples: number[] = []
    for (let i = 0; i < count; i++) {
      // As before the updates that are to be predicted.
      await poisonAll(this.#updates.engines)
      const version = `calibration-${this.#version++}`
      samples.push(slowest(await this.#updates.update(version, 'none')) / 1000)
    }
    return summarize(samples).median
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#updates[Symbol.asyncDispose]()
    this.#checkpoint[Symbol.dispose]()
  }
}
