import { CkptError, type PipelineRun, type PipelineStats } from '@ckpt/contract'
import { onAbort } from '@ckpt/utils'
import { fromNative, nativeSync } from './addon.ts'

/** Handle from an addon for a pipeline that it started. */
export interface NativePipelineHandle {
  release(bucket: number): void
  arrived(bucket: number): void
  abort(message: string): void
}

/** Callbacks of an addon about a run. */
export interface NativeCallbacks {
  onBucket(bucket: number): void
  /** Called once, with the error or the figures. */
  onFinished(error: Error | undefined, stats: PipelineStats | undefined): void
}

/** State of a collective, as text for errors. */
export const STATES = {
  ready: 'no pipeline runs',
  running: 'a pipeline is running: one at a time',
  failed: 'an earlier pipeline failed: close the collective and make a new one',
  closed: 'the collective is closed',
} as const

/** A native pipeline as the contract's {@link PipelineRun}. */
export class NativeRun implements PipelineRun {
  readonly startedAt: number
  readonly finished: Promise<PipelineStats>
  readonly #pipeline: NativePipelineHandle
  #reason: CkptError | undefined

  /** Starts the pipeline. @throws CkptError `INVALID_ARGUMENT` naming the bucket, the copy or the field. */
  constructor(start: (callbacks: NativeCallbacks) => NativePipelineHandle, onBucket: (bucket: number) => void) {
    let resolve!: (stats: PipelineStats) => void
    let reject!: (reason: unknown) => void
    this.finished = new Promise<PipelineStats>((onResolve, onReject) => {
      resolve = onResolve
      reject = onReject
    })
    // A caller that aborts need not also handle the end.
    this.finished.catch(() => undefined)
    const deliver = (bucket: number): void => {
      if (this.#reason !== undefined) return
      try {
        onBucket(bucket)
      } catch (error) {
        this.abort(CkptError.from(error, 'UPDATE_FAILED', `handling bucket ${bucket}`))
      }
    }
    const onFinished = (error: Error | undefined, stats: PipelineStats | undefined): void => {
      if (stats !== undefined) resolve(stats)
      else reject(this.#reason ?? fromNative(error))
    }
    this.startedAt = performance.now()
    this.#pipeline = nativeSync(() => start({ onBucket: deliver, onFinished }))
  }

  release(bucket: number): void {
    nativeSync(() => this.#pipeline.release(bucket))
  }

  arrived(bucket: number): void {
    nativeSync(() => this.#pipeline.arrived(bucket))
  }

  abort(reason: CkptError): void {
    this.#reason ??= reason
    this.#pipeline.abort(reason.message.replaceAll('\0', ' '))
  }

  /** Aborts with the signal's reason, now or later. Returns a function that stops listening. */
  abortOn(signal: AbortSignal | undefined): () => void {
    const abort = (): void => this.abort(CkptError.from(signal?.reason, 'ABORTED', 'the pipeline was aborted'))
    return onAbort(signal, abort)
  }
}
