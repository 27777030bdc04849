import type { PulledSource } from '@ckpt/contract'
import type { UpdateReport } from '@ckpt/core'
import { formatSize } from '../sizes.ts'

/** Describes the order in time of H2D and broadcasts, which matters if they share links. */
function orderText({ name, chunkBytes, reason }: NonNullable<UpdateReport['order']>): string {
  return `${name} in chunks of ${formatSize(chunkBytes)}: ${reason}`
}

/** Describes what was pulled, and from which ranks. */
function pullText({ bytes, busyMs, sources, lost }: NonNullable<UpdateReport['pull']>): string {
  const from = sources.map((source) => `rank ${source.rank} ${formatSize(source.bytes)} over ${wireText(source)}`).join(', ')
  const gone = lost.map(({ rank, code }) => `; lost rank ${rank} (${code})`).join('')
  return `pulled ${formatSize(bytes)} in ${busyMs.toFixed(1)} ms: ${from}${gone}`
}

/** Names a wire, and the rates by which it was chosen. */
function wireText({ wire, measured }: PulledSource): string {
  if (measured === undefined) return wire
  const rates = measured.map(({ kind, bytesPerSecond }) => `${kind} ${(bytesPerSecond / 1e9).toFixed(2)} GB/s`)
  return `${wire} (measured: ${rates.join(', ')})`
}

function attemptsText({ attempts, kept }: UpdateReport): string {
  return `${attempts} attempts${kept ? `; ${formatSize(kept.bytes)} that an earlier one had brought were not sent again` : ''}`
}

function verifiedText({ level, bytes, reason }: UpdateReport['verification']): string {
  const compared = `${formatSize(bytes)} of parameters compared with the registered bytes`
  if (level === 'bytes') return `verified: bytes; ${compared}`
  const before = level === 'sources' ? '; every tensor compared before it was loaded' : ''
  return `verified: ${level}${before}${bytes > 0 ? `; ${compared}` : ''}${reason === undefined ? '' : ` (${reason})`}`
}

/** Summarises an update in a few lines. */
export function summary(report: UpdateReport, ranks: number): string {
  const { stages, steps } = report
  const ms = (value: number) => `${value.toFixed(1)} ms`
  const rate = formatSize(report.bytes / (steps.pipelineMs / 1000))
  return [
    `version ${report.version}: ${report.tensors} tensors, ${formatSize(report.bytes)}, to ${ranks} engine worker${ranks === 1 ? '' : 's'}`,
    `  total ${ms(report.totalMs)}: begin ${ms(steps.beginMs)}, plan ${ms(steps.planMs)}, attach ${ms(steps.attachMs)}, pipeline ${ms(steps.pipelineMs)} (${rate}/s), commit ${ms(steps.commitMs)}`,
    `  stages on rank ${report.rank}: H2D ${ms(stages.h2dMs)}, broadcast ${ms(stages.broadcastMs)}, reload ${ms(stages.reloadMs)}, idle ${ms(stages.idleMs)}`,
    `  how: ${report.how}`,
    ...(report.pull ? [`  ${pullText(report.pull)}`] : []),
    `  ${report.mode} (${report.modeReason}); ${report.buckets} buckets through a ring of ${formatSize(report.ringBytes)}`,
    ...(report.order?.linksShared ? [`  ${orderText(report.order)}`] : []),
    ...(report.attempts === undefined ? [] : [`  ${attemptsText(report)}`]),
    `  ${verifiedText(report.verification)}`,
    '',
  ].join('\n')
}
