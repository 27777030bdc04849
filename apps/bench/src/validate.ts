import { checkpointTensors, keptBytes, model, sharedManifest } from '@ckpt/models'
import { dealtWorkload, predict, type Prediction } from '@ckpt/planner'
import { referenceRuns, type BenchResult, type ReferenceRun } from './result.ts'

/** A run with its prediction, or the reason why there is none. */
export interface Predicted {
  readonly run: ReferenceRun
  readonly prediction: Prediction | string
}

/** Predicts all runs of a result, from rates that were measured separately from them in the same run of the bench. */
export function predictRuns(result: BenchResult): Predicted[] {
  return referenceRuns(result).map((run) => ({
    run,
    prediction: predict(run, { ...(result.gpus && { gpus: result.gpus }) }, ({ model: id, ranks, bytes }) => {
      const tensors = checkpointTensors(model(id), { bytes })
      return dealtWorkload(sharedManifest(id, tensors, ranks), keptBytes(tensors, ranks))
    }),
  }))
}

/** Formats the error of a prediction. */
export function percent(error: number): string {
  return `${error >= 0 ? '+' : '−'}${Math.abs(error * 100).toFixed(1)} %`
}
