import { SpanStatusCode, trace, type Attributes, type Span } from '@opentelemetry/api'
import { CkptError } from '@ckpt/contract'
import type { UpdateReport } from './report.ts'

/**
 * Runs `work` inside an OpenTelemetry span; a failure is recorded with its code. Without an SDK, which the application
 * installs, this costs nothing and does nothing.
 */
export async function inSpan<T>(name: string, attributes: Attributes, work: (span: Span) => Promise<T>): Promise<T> {
  return trace.getTracer('@ckpt/core').startActiveSpan(name, { attributes }, async (span) => {
    try {
      return await work(span)
    } catch (error) {
      const code = CkptError.is(error) ? error.code : 'UNKNOWN'
      span.setAttribute('error.type', code)
      span.recordException(error instanceof Error ? error : String(error))
      span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) })
      throw error
    } finally {
      span.end()
    }
  })
}

/** Adds an update's report to its span: attributes, and a child for each step at its time. */
export function describeUpdate(span: Span, report: UpdateReport): void {
  if (!span.isRecording()) return
  span.setAttributes({
    'ckpt.epoch': report.epoch,
    'ckpt.version': report.version,
    'ckpt.strategy': report.strategy,
    'ckpt.how': report.how,
    'ckpt.mode': report.mode,
    'ckpt.bytes': report.bytes,
    'ckpt.tensors': report.tensors,
    'ckpt.verified': report.verified,
    'ckpt.attempts': report.attempts ?? 1,
  })
  const tracer = trace.getTracer('@ckpt/core')
  let at = report.startedUs / 1000
  for (const [name, milliseconds] of Object.entries(report.steps) as [string, number][]) {
    const step = tracer.startSpan(`ckpt.${name.replace(/Ms$/, '')}`, {
      startTime: at,
      attributes: { 'ckpt.epoch': report.epoch },
    })
    at += milliseconds
    step.end(at)
  }
}
