import { readFileSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import { predict, type MeasuredMachine, type MeasuredRun, type Prediction } from '@ckpt/planner'
import { workloadOf } from './scenario.ts'
import { columns, time } from './text.ts'

/** The part of a bench's JSON that is read here. */
interface BenchFile extends MeasuredMachine {
  readonly schema: number
  readonly runs: readonly MeasuredRun[]
}

/** A run that was measured, and what the simulator says of it. */
export interface Validation {
  readonly what: string
  readonly measuredMs: MeasuredRun['updateMs']
  readonly prediction?: Prediction
  /** Why nothing is predicted. */
  readonly skipped?: string
}

/**
 * What the simulator predicts for each run of a bench's JSON, from the rates measured in the same run.
 *
 * @throws CkptError `INVALID_ARGUMENT` when the file is not a bench's JSON.
 */
export function validate(path: string): Validation[] {
  const file = readBench(path)
  return file.runs.map((run) => {
    const variant = run.variant === undefined ? '' : `, ${run.variant}`
    const what = `${run.model}, ${run.strategy}, ${run.backend}, ${run.ranks} rank${run.ranks === 1 ? '' : 's'}${variant}`
    const result = predict(run, file, ({ model, ranks, bytes }) => workloadOf({ model, gpus: ranks, tp: ranks }, { bytes }))
    return { what, measuredMs: run.updateMs, ...(typeof result === 'string' ? { skipped: result } : { prediction: result }) }
  })
}

function readBench(path: string): BenchFile {
  let file: unknown
  try {
    file = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw CkptError.from(error, 'INVALID_ARGUMENT', path)
  }
  const bench = file as Partial<BenchFile>
  if (bench.schema !== 1 || !Array.isArray(bench.runs)) {
    throw new CkptError('INVALID_ARGUMENT', `${path} is not what the bench writes with --json (schema 1)`, {
      fields: { file: path, field: 'schema' },
    })
  }
  return bench as BenchFile
}

/** Predicted and measured times side by side. */
export function describeValidation(validations: readonly Validation[], markdown: boolean): string {
  const percent = (error: number) => `${error >= 0 ? '+' : '-'}${Math.abs(error * 100).toFixed(1)} %`
  const rows = validations.map(({ what, measuredMs, prediction, skipped = '' }) => [
    what,
    time(measuredMs.median),
    `${time(measuredMs.min)} to ${time(measuredMs.max)}`,
    ...(prediction === undefined
      ? ['–', '–', '–', skipped]
      : [
          time(prediction.totalMs),
          percent(prediction.error),
          `${percent(Math.min(...prediction.errors))} to ${percent(Math.max(...prediction.errors))}`,
          prediction.bottleneck,
        ]),
  ])
  const head = ['run', 'measured', 'samples', 'predicted', 'error', 'of each sample', 'bottleneck']
  return `${columns(head, rows, markdown)}\n`
}
