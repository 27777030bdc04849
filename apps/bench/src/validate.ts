import { checkpointTensors, keptBytes, model, sharedManifest } from '@ckpt/models'
import { dealtWorkload, predict, type ProcessorCalibration } from '@ckpt/planner'
import type { BenchResult, Run } from './result.ts'

/** A run beside what the simulator says of it. */
export interface Predicted {
  readonly run: Run
  readonly predictedMs?: number
  /** (predicted - measured) / measured. */
  readonly error?: number
  /** Why there is no prediction. */
  readonly reason?: string
}

/** Predictions for all runs of a result, from rates that were measured apart from them in the same run of the bench. */
export function predictRuns(
  result: BenchResult,
  processors: ProcessorCalibration | undefined = result.processors,
): Predicted[] {
  return result.runs.map((run) => {
    const machine = { ...(result.gpus && { gpus: result.gpus }), ...(processors && { processors }) }
    const found = predict(run, machine, ({ model: id, ranks, bytes }) => {
      const tensors = checkpointTensors(model(id), { bytes })
      return dealtWorkload(sharedManifest(id, tensors, ranks), keptBytes(tensors, ranks))
    })
    if (typeof found === 'string') return { run, reason: found }
    return { run, predictedMs: found.totalMs, error: found.totalMs / run.updateMs.median - 1 }
  })
}
