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
/** Model of the calibration updates, with their sizes. */
const MODEL = 'llama-3.1-8b'
const LARGE_BYTES = 1024 * MIB
const SMALL_BYTES = 16 * MIB
/** Updates of each size in one calibration; the median counts. */
const REPEAT = 3
/** Updates before the first calibration: they create ring, collective and recordings, and compile hot code. */
export const WARM_UP = 4
/** Pairs of measurements of two models' slices; the median of their ratios counts. */
const SLICE_PAIRS = 31

type Strategy = 'broadcast' | 'direct' | 'p2p'

/**
 * Measures the time that this machine's processors need for the parts of an update, before and after every predicted update,
 * because other load on the physical machine changes it within seconds. All of it comes from updates of a different model over
 * the same number of ranks: one of 16 MiB, for the time before and after the pipeline, and one of 1 GiB, as large as the
 * validated ones, for the time per byte.
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

  /** Returns a function that measures the rates for updates of `model`, reduced to `bytes`. */
  async beside(model: Pick<Model, 'id'>, bytes: number): Promise<Beside> {
    const sliced = await this.#sliceRatio(checkpointTensors(findModel(model.id), { bytes }))
    return { read: () => this.#read(sliced) }
  }

  async #read(sliced: number): Promise<ProcessorReading> {
    const processors = cpus().length
    const small = await this.#small.seconds(REPEAT)
    const large = await this.#large.seconds(REPEAT)
    const perByte = Math.max(1e-4, large - small) / (LARGE_BYTES - SMALL_BYTES)
    // Bytes that are copied for each byte of the checkpoint: all workers' parts together, to each other rank, and H2D; pulled
    // bytes are instead copied into the sending socket and out of the receiving one.
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

  /** Returns the rate of copying this model's slices, relative to the calibration's own. */
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

/** Measures the rates before and after the updates of one run. */
export interface Beside {
  read(): Promise<ProcessorReading>
}

/** Repeated updates of the calibration's model. */
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

  /** Returns the median of this many updates, in seconds. */
  async seconds(count: number): Promise<number> {
    const samples: number[] = []
    for (let i = 0; i < count; i++) {
      // Same steps as before the predicted updates.
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
