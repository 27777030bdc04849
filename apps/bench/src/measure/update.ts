import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { timelineOf, type UpdateReport } from '@ckpt/core'
import type { Model } from '@ckpt/models'
import { Cluster, type GeneratedCheckpoint } from '@ckpt/harness'
import type { Run } from '../result.ts'
import { summarize } from '../statistics.ts'
import type { CeilingProbe } from './ceilings.ts'

/** Spans that a run keeps of its last update: enough to see every stall, little beside the rest of the JSON when there are many. */
const MAX_SPANS = 4000

export interface UpdateMeasurement {
  readonly model: Pick<Model, 'id' | 'title'>
  readonly checkpoint: Omit<GeneratedCheckpoint, keyof Disposable>
  /** With `p2p` the ranks join from the saved metas of as many others, which hold the checkpoint, over TCP on this machine. */
  readonly strategy: 'broadcast' | 'p2p'
  readonly ranks: number
  readonly repeat: number
  /** Readings of the copy ceiling, one right before each sample. */
  readonly copyCeiling: CeilingProbe
  readonly onStep?: (step: string) => void
}

/**
 * Updates of one checkpoint over processes of their own: rank processes, and an engine worker each that keeps its tensor-parallel
 * slices. Before each update all parameters are overwritten, after it every byte is compared with the files; neither is timed. The
 * slowest rank counts. The copy ceiling is read before every sample, which is then held against that reading.
 */
export async function measureUpdate(options: UpdateMeasurement): Promise<Run> {
  const { model, checkpoint, ranks, repeat, onStep } = options
  const pulls = options.strategy === 'p2p'
  onStep?.('starting processes')
  const threads = Math.max(1, Math.floor(cpus().length / ranks))
  await using cluster = await Cluster.start({
    ranks,
    threads,
    keepAlive: true,
    engine: { kind: 'typescript', checkpoint: checkpoint.directory },
  })
  await using others = pulls ? await Cluster.start({ ranks, threads }) : undefined
  const owners = others ?? cluster
  onStep?.('registering')
  const registered = await owners.register('bench', checkpoint.directory)
  const gathered = await owners.all('gatherMetas', () => ({ name: 'bench', digests: pulls }))
  if (pulls) await loadMetas(owners, cluster)
  const p2p = pulls ? { p2p: cluster.ranks.map(({ rank }) => rank) } : {}
  const samples: UpdateReport[][] = []
  let verified = true
  let verifiedBytes = 0
  const updateAndVerify = async (verify: boolean, version: string): Promise<UpdateReport[]> => {
    await Promise.all(cluster.engines.map((engine) => engine.poison()))
    onStep?.(`update ${version}`)
    const reports = await cluster.update('bench', { verify, version, ...p2p })
    onStep?.(`verifying ${version}`)
    const checks = await Promise.all(cluster.engines.map((engine) => engine.verify(checkpoint.files)))
    verified &&= checks.every((check) => check.verified)
    verifiedBytes = checks.reduce((sum, check) => sum + check.bytes, 0)
    return reports
  }
  // The first update makes ring and collective, which are kept: it is not a sample.
  await updateAndVerify(false, 'first')
  const ceilings: number[] = []
  for (let i = 0; i < repeat; i++) {
    ceilings.push(await options.copyCeiling.read())
    samples.push(await updateAndVerify(false, `sample ${i + 1} of ${repeat}`))
  }
  const digested = await updateAndVerify(true, 'with digests')
  const resources = await cluster.all('resources', () => undefined)

  const slowest = samples.map((reports) => Math.max(...reports.map((report) => report.totalMs)))
  const updateMs = summarize(slowest)
  const median = samples[slowest.indexOf([...slowest].sort((a, b) => a - b)[Math.floor(slowest.length / 2)]!)]!
  const stage = (name: keyof UpdateReport['stages']) => Math.max(...median.map((report) => report.stages[name]))
  const first = median[0]!
  const last = samples.at(-1)!
  const sum = (value: (report: UpdateReport) => number) => last.reduce((total, report) => total + value(report), 0)
  // What is pulled is copied into the sending socket and out of the receiving one, where H2D is one copy.
  const moved = first.bytes * (pulls ? 2 : 1) + first.bytes * (ranks - 1) + verifiedBytes
  const limits = ceilings.map((bytesPerSecond) => (moved / bytesPerSecond) * 1000)
  const ratio = summarize(slowest.map((milliseconds, i) => milliseconds / limits[i]!))
  return {
    model: model.id,
    title: model.title,
    scale: checkpoint.scale,
    backend: 'host',
    strategy: options.strategy,
    ranks,
    bytes: first.bytes,
    tensors: first.tensors,
    gatherMetasMs: Math.max(...gathered.map(({ milliseconds }) => milliseconds)),
    registerMs: Math.max(...registered.map(({ milliseconds }) => milliseconds)),
    updateMs,
    stages: { h2dMs: stage('h2dMs'), broadcastMs: stage('broadcastMs'), reloadMs: stage('reloadMs'), idleMs: stage('idleMs') },
    digestUpdateMs: Math.max(...digested.map((report) => report.totalMs)),
    peakDeviceBytes: Math.max(...median.map((report) => report.ringBytes)),
    peakHostBytes: Math.max(...resources.map((one) => one.peakResidentBytes)),
    limit: {
      bytesPerSecond: summarize(ceilings).median,
      updateMs: summarize(limits).median,
      how: `${moved} bytes that ${pulls ? 'both ends of the pull' : 'H2D'}, broadcast and reload must move, at the copy rate of all cores read right before each update; the ratio is the median of the updates' own`,
    },
    ratioToLimit: ratio.median,
    ratios: ratio,
    verified,
    verifiedBytes,
    digest: first.digest,
    ringBytes: first.ringBytes,
    bucketBytes: first.bucketBytes,
    mode: `${first.mode}: ${first.modeReason}`,
    ...(first.order && { order: first.order }),
    moved: {
      h2dBytes: sum((report) => report.h2dBytes),
      broadcastBytes: sum((report) => report.broadcastBytes),
      reloadBytes: verifiedBytes,
    },
    timelines: last.map((report) => timelineOf(report, { maxSpans: Math.floor(MAX_SPANS / ranks) })),
  }
}

/** Has `joining` learn what `owners` hold as a new instance does, from a file. */
async function loadMetas(owners: Cluster, joining: Cluster): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-bench-metas-'))
  try {
    const path = join(directory, 'metas')
    await owners.ranks[0]!.call('saveMetas', { name: 'bench', path })
    await joining.all('loadMetas', () => ({ path }))
  } finally {
    rmSync(directory, { recursive: true })
  }
}
