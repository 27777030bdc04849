import Table from 'cli-table3'
import { engineRuns, referenceRuns, type BenchResult, type DirectAccount, type ReferenceRun, type Run } from '../result.ts'
import { comparisonOf } from './comparison.ts'
import { engineTable } from './engine-table.ts'
import { percent, predictRuns } from '../validate.ts'
import { publishedRows } from './published.ts'
import { gigabytes, seconds } from './units.ts'

/** Formats the bench's result for a terminal. */
export function renderTables(result: BenchResult): string {
  const { machine } = result
  const runs = referenceRuns(result)
  const real = engineRuns(result)
  const parts = [
    `${machine.cpu}, ${machine.cores} cores, ${gigabytes(machine.memoryBytes)}, Node ${machine.node}`,
    limits(result),
    '',
    ...(runs.length > 0 ? [updates(runs)] : []),
    ...(real.length > 0 ? [engineTable(real)] : []),
    ...orders(runs),
    published(result.runs),
  ]
  for (const run of runs) if (run.backend === 'cuda') parts.push(onGpu(run))
  for (const run of runs) if (run.direct) parts.push(bytesAccount(run.title, run.direct))
  if (result.registration) {
    const { bytes, registerMs, ofCeiling, freshMs, freshOfCeiling } = result.registration
    const percent = (part: number) => `${(part * 100).toFixed(0)} %`
    parts.push(
      `registration of ${gigabytes(bytes)} of warm files: ${seconds(registerMs.median)} into the pool (${percent(ofCeiling)} of the read ceiling), ${seconds(freshMs.median)} into new memory (${percent(freshOfCeiling)})`,
    )
  }
  if (result.gatherMetas) {
    const { model: id, tensors, ranks, firstMs, unchangedMs } = result.gatherMetas
    parts.push(
      `gatherMetas of ${id} at full size (${tensors} tensors, ${ranks} ranks): ${seconds(firstMs)} first, ${seconds(unchangedMs.median)} unchanged`,
    )
  }
  for (const peer of result.peers) {
    parts.push(
      `${peer.what} of ${peer.model} over ${peer.ranks} ranks: ${seconds(peer.oursMs.median)}; ${peer.peer} ${peer.version}: ${seconds(peer.peerMs.median)} (${peer.ratio.toFixed(peer.ratio < 10 ? 2 : 0)} times as long)`,
    )
  }
  if (runs.some(({ readings }) => readings)) parts.push(predictions(result))
  for (const { what, reason } of result.skipped) parts.push(`not measured: ${what}: ${reason}`)
  return `${parts.join('\n')}\n`
}

function limits({ ceilings, gpus }: BenchResult): string {
  const found = [`copy ceiling ${gigabytes(ceilings.copyBytesPerSecond)}/s`]
  if (ceilings.readBytesPerSecond !== undefined) found.push(`read ceiling ${gigabytes(ceilings.readBytesPerSecond)}/s`)
  if (gpus) found.push(`host links of ${gpus.names.join(', ')} together ${gigabytes(gpus.h2dBytesPerSecond)}/s`)
  return `${found.join(', ')}, measured in this run`
}

function updates(runs: readonly ReferenceRun[]): string {
  const table = new Table({
    head: [
      'model (scaled)',
      'kept',
      'bytes',
      'tensors',
      'ranks',
      'register',
      'update',
      'unverified',
      'limit',
      'ratio',
      'verified',
    ],
    style: { head: [], border: [] },
    colWidths: [null, 30],
    wordWrap: true,
  })
  for (const run of runs) {
    table.push([
      [run.title, run.strategy === 'broadcast' ? undefined : run.strategy, run.variant].filter(Boolean).join(', '),
      run.scale,
      gigabytes(run.bytes),
      run.tensors,
      run.ranks,
      seconds(run.registerMs),
      `${seconds(run.updateMs.median)} (${gigabytes((run.bytes / run.updateMs.median) * 1000)}/s)`,
      [
        `${seconds(run.unverifiedMs.median)} (${percent(run.verificationCost)})`,
        run.stepVerificationCost !== undefined && `with registration ${percent(run.stepVerificationCost)}`,
      ]
        .filter(Boolean)
        .join('\n'),
      limitText(run),
      comparisonOf(run).ratio.toFixed(2),
      run.parametersEqual ? run.verified : 'FAILED',
    ])
  }
  return table.toString()
}

function limitText(run: ReferenceRun): string {
  const { updateMs, limitMs, each } = comparisonOf(run)
  return each ? `${seconds(limitMs)} (for ${seconds(updateMs)})` : seconds(limitMs)
}

/** Formats the times of the median update. */
function onGpu({
  variant,
  steps,
  stages,
  peakDeviceBytes,
  ringBytes,
  registerInPlaceMs,
  gatherMetasMs,
  ...run
}: ReferenceRun): string {
  const times = (of: object) =>
    Object.entries(of)
      .map(([name, value]) => `${name.replace('Ms', '')} ${seconds(value as number)}`)
      .join(', ')
  const again = run.gatherMetasAgainMs ? `, again ${seconds(run.gatherMetasAgainMs.median)}` : ''
  return [
    `${variant}: ${steps ? times(steps) : ''}; stages ${times(stages)}; min ${seconds(run.updateMs.min)}, max ${seconds(run.updateMs.max)}`,
    `  extra device memory ${gigabytes(peakDeviceBytes)} (ring ${gigabytes(ringBytes)}), growth ${run.growthBytes ?? 0} bytes`,
    `  in place registered in ${seconds(registerInPlaceMs ?? 0)}, metas ${seconds(gatherMetasMs)}${again}, first attach ${seconds(run.firstAttachMs ?? 0)}`,
  ].join('\n')
}

/** Formats the bytes that a direct update moved, next to the bytes that were necessary. */
function bytesAccount(title: string, direct: DirectAccount): string {
  const { neededBytes, uniqueBytes, h2dBytes, forwardedBytes, opaqueBytes, opaqueTensors, routes, copies, how } = direct
  const opaque = opaqueTensors.length === 0 ? '' : ` (${opaqueTensors.join('; ')})`
  return [
    `${title}, direct: engine workers needed ${gigabytes(neededBytes)}, ${gigabytes(uniqueBytes)} of it different; over host links ${gigabytes(h2dBytes)} (${((h2dBytes / uniqueBytes) * 100).toFixed(2)} %), GPU to GPU ${gigabytes(forwardedBytes)}, through the ring ${gigabytes(opaqueBytes)}${opaque}`,
    `  ${routes} routes in ${copies} copies: ${how}`,
  ].join('\n')
}

/** Formats the order in time of H2D and broadcasts, for runs whose links carry both. */
function orders(runs: readonly ReferenceRun[]): string[] {
  return runs.flatMap(({ title, order }) => (order?.linksShared ? [`${title}: ${order.name}: ${order.reason}`] : []))
}

/**
 * Formats checkpoint-engine's published figures for the whole models on GPUs: a different scale and machine, so only for
 * orientation.
 */
function published(runs: readonly Run[]): string {
  const table = new Table({
    head: ['published for the whole model (checkpoint-engine)', 'devices', 'gather metas', 'broadcast', 'p2p'],
    style: { head: [], border: [] },
  })
  for (const id of new Set(runs.map((run) => run.model))) {
    for (const row of publishedRows(id)) {
      table.push([row.title, row.devices, `${row.gatherMetasSeconds} s`, `${row.broadcastSeconds} s`, `${row.p2pSeconds} s`])
    }
  }
  return table.length === 0 ? '' : table.toString()
}

/** Formats updates next to the simulator's predictions. */
function predictions(result: BenchResult): string {
  const table = new Table({
    head: ['simulated', 'ranks', 'measured', 'samples', 'predicted', 'error', 'of each sample'],
    style: { head: [], border: [] },
  })
  for (const { run, prediction } of predictRuns(result)) {
    const { title, strategy, ranks, updateMs } = run
    const found =
      typeof prediction === 'string'
        ? [prediction, '', '']
        : [seconds(prediction.totalMs), percent(prediction.error), prediction.errors.map(percent).join(' ')]
    const range = `${seconds(updateMs.min)} to ${seconds(updateMs.max)}`
    table.push([`${title}, ${strategy}`, ranks, seconds(updateMs.median), range, ...found])
  }
  return table.toString()
}
