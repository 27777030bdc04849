import { MODELS, type PublishedUpdate } from '@ckpt/models'
import { topology, type Simulation } from '@ckpt/planner'
import { simulateAll } from './scenario.ts'
import { columns, time } from './text.ts'

/** One published row of checkpoint-engine's table with its simulations. */
export interface PublishedScenario {
  readonly model: string
  readonly title: string
  readonly devices: string
  readonly published: PublishedUpdate
  readonly engine: string
  readonly simulations: readonly Simulation[]
}

const NICS = '8x400g'
const GIB = 2 ** 30

/** Returns GPUs, tensor parallelism and topology of devices such as `256xH20 TP16`. */
export function devicesOf(devices: string): { gpus: number; tp: number; topology: string } {
  const [, gpus, type, tp] = /^(\d+)x(\w+) TP(\d+)$/.exec(devices)!
  return { gpus: Number(gpus), tp: Number(tp), topology: `${type!.toLowerCase()}-${NICS}` }
}

/** Returns all published rows with every strategy on both systems; checkpoint-engine with the bucket sizes that it reports. */
export function publishedScenarios(engine: string): PublishedScenario[] {
  return MODELS.flatMap(({ id, title, updates }) =>
    updates.map((published) => {
      const { gpus, tp, topology: name } = devicesOf(published.devices)
      const sizes = { broadcast: published.broadcastBucketGiB, p2p: published.p2pBucketGiB, direct: 0 }
      const simulations = simulateAll(
        { model: id, gpus, tp, rates: topology(name, engine) },
        undefined,
        undefined,
        (system, strategy) => (system === 'checkpoint-engine' ? Math.floor(sizes[strategy] * GIB) : undefined),
      )
      return { model: id, title, devices: published.devices, published, engine, simulations }
    }),
  )
}

/** Formats the rows as one table. */
export function describePublished(scenarios: readonly PublishedScenario[], markdown: boolean): string {
  const of = (all: readonly Simulation[], system: string, strategy: string) =>
    time(all.find((one) => one.system === system && one.strategy === strategy)!.totalMs)
  const head = [
    'model',
    'devices',
    'ckpt broadcast',
    'p2p',
    'direct',
    'checkpoint-engine broadcast',
    'published',
    'checkpoint-engine p2p',
    'published ',
  ]
  const rows = scenarios.map(({ title, devices, published, simulations: all }) => [
    title,
    devices,
    of(all, 'ckpt', 'broadcast'),
    of(all, 'ckpt', 'p2p'),
    of(all, 'ckpt', 'direct'),
    of(all, 'checkpoint-engine', 'broadcast'),
    `${published.broadcastSeconds.toFixed(2)} s`,
    of(all, 'checkpoint-engine', 'p2p'),
    `${published.p2pSeconds.toFixed(2)} s`,
  ])
  return `${columns(head, rows, markdown)}\n`
}
