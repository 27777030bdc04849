import { readFileSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import { predict, type MeasuredMachine, type MeasuredRun, type Prediction } from '@ckpt/planner'
import { workloadOf } from './scenario.ts'
import { columns, time } from './text.ts'

/** Part of a bench's JSON that is read here. */
interface BenchFile extends MeasuredMachine {
  readonly schema: number
  readonly runs: readonly MeasuredRun[]
}

/** A measured run, with the simulator's prediction. */
export interface Validation {
  readonly what: string
  readonly measuredMs: MeasuredRun['updateMs']
  readonly prediction?: Prediction
  /** Reason why there is no prediction. */
  readonly skipped?: string
}

/**
 * Predicts each run of a bench's JSON, from the rates measured in the same run.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the file is not a bench's JSON.
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
    throw new CkptError('INVALID_ARGUMENT', `${path} is not a file that the bench writes with --json (schema 1)`, {
      fields: { file: path, field: 'schema' },
    })
  }
  return bench as BenchFile
}

/** Formats predicted and measured times in one table. */
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
