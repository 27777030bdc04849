import { cpus } from 'node:os'
import type { Host } from '@ckpt/contract'
import { generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/harness'
import { checkpointTensors, model as findModel, type CheckpointTensor, type Model } from '@ckpt/models'
import type { ProcessorReading } from '@ckpt/planner'
import { summarize } from '../statistics.ts'
import { sliceProbe } from './slices.ts'
import { Updates, slowest } from './updates.ts'

const MIB = 2 ** 20
/** What rates are read from: updates of this model, so large and so small, over as many ranks. */
const MODEL = 'llama-3.1-8b'
const LARGE_BYTES = 512 * MIB
const SMALL_BYTES = 16 * MIB
const RANKS = 2
/** Small updates of one reading, of which the median counts. */
const SMALL_REPEAT = 3
/** Updates before the first reading: they make ring, collective and recordings, and compile what is run often. */
const WARM_UP = 4
const SLICE_PAIRS = 7

type Strategy = 'broadcast' | 'direct' | 'p2p'

/**
 * What this machine's processors need for the parts of an update, read again and again beside the updates that are to be predicted,
 * since what else the physical machine does moves it within seconds. All of it comes from updates of another model: over two ranks,
 * one of 16 MiB and one of 512 MiB, whose difference is the time of the bytes; and over as many ranks as are to be predicted, one of
 * 16 MiB, for what lies before and after the pipeline.
 */
export class Calibration implements AsyncDisposable {
  readonly #host: Host
  readonly #strategy: Strategy
  readonly #all: readonly SmallUpdates[]
  readonly #small: SmallUpdates
  readonly #large: SmallUpdates
  /** Broadcasts, where the strategy is p2p: what is pulled is also shared and loaded. */
  readonly #staged: { readonly small: SmallUpdates; readonly large: SmallUpdates } | undefined

  private constructor(host: Host, strategy: Strategy, all: readonly SmallUpdates[]) {
    const [small, large, stagedSmall, stagedLarge] = all
    this.#host = host
    this.#strategy = strategy
    this.#all = all
    this.#small = small!
    this.#large = large!
    this.#staged = stagedSmall && stagedLarge && { small: stagedSmall, large: stagedLarge }
  }

  static async start(host: Host, strategy: Strategy): Promise<Calibration> {
    const all: SmallUpdates[] = []
    try {
      for (const kind of strategy === 'p2p' ? (['p2p', 'broadcast'] as const) : [strategy]) {
        for (const bytes of [SMALL_BYTES, LARGE_BYTES]) all.push(await SmallUpdates.start(host, bytes, RANKS, kind))
      }
    } catch (error) {
      for (const one of all) await one[Symbol.asyncDispose]()
      throw error
    }
    return new Calibration(host, strategy, all)
  }

  /** What reads the rates for updates of `model`, cut to `bytes`, over `ranks`. */
  async beside(model: Pick<Model, 'id'>, bytes: number, ranks: number): Promise<Beside> {
    const sliced = await this.#sliceRatio(checkpointTensors(findModel(model.id), { bytes }), ranks)
    const others = ranks === RANKS ? undefined : await SmallUpdates.start(this.#host, SMALL_BYTES, ranks, this.#strategy)
    return {
      read: () => this.#read(others ?? this.#small, ranks, sliced),
      [Symbol.asyncDispose]: async () => others?.[Symbol.asyncDispose](),
    }
  }

  async #read(control: SmallUpdates, ranks: number, sliced: number): Promise<ProcessorReading> {
    const processors = cpus().length
    const small = await this.#small.seconds(SMALL_REPEAT)
    const large = await this.#large.seconds(1)
    const before = control === this.#small ? small : await control.seconds(SMALL_REPEAT)
    /** Processor time of a byte of the checkpoint. */
    const perByte = (few: number, many: number) => (Math.max(1e-4, many - few) * processors) / (LARGE_BYTES - SMALL_BYTES)
    const all = perByte(small, large)
    // Bytes that are copied for each byte of the checkpoint: H2D, to each other rank, and what all workers keep together.
    const copies = (over: number) => (this.#strategy === 'direct' ? 1 : 1 + over)
    let copy = all / copies(RANKS)
    let tcp: number | undefined
    if (this.#staged) {
      copy = perByte(await this.#staged.small.seconds(SMALL_REPEAT), await this.#staged.large.seconds(1)) / copies(RANKS)
      // Everything but H2D is the same; what is received over TCP has been copied twice at least.
      tcp = Math.max(all - RANKS * copy, copy)
    }
    const work = (copies(ranks) - 1) * copy + (tcp ?? copy)
    return {
      processors,
      copyRate: 1 / copy,
      reloadRate: sliced / copy,
      ...(tcp !== undefined && { tcpRate: 1 / tcp }),
      updateSeconds: Math.max(0, before - (work * SMALL_BYTES) / processors),
    }
  }

  /** How fast this model's slices over `ranks` are taken, in terms of the calibration's own. */
  async #sliceRatio(tensors: readonly CheckpointTensor[], ranks: number): Promise<number> {
    const own = checkpointTensors(findModel(MODEL), { bytes: LARGE_BYTES })
    using theirs = await sliceProbe(this.#host, tensors, ranks)
    using ours = await sliceProbe(this.#host, own, RANKS)
    const ratios: number[] = []
    for (let i = 0; i < SLICE_PAIRS; i++) ratios.push((await theirs.read()) / (await ours.read()))
    return summarize(ratios).median
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#all) await one[Symbol.asyncDispose]()
  }
}

/** Reads the rates beside the updates of one run. */
export interface Beside extends AsyncDisposable {
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
    for (let i = 0; i < count; i++) samples.push(slowest(await this.#updates.update(`calibration-${this.#version++}`)) / 1000)
    return summarize(samples).median
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#updates[Symbol.asyncDispose]()
    this.#checkpoint[Symbol.dispose]()
  }
}
