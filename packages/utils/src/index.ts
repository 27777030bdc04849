/**
 * What several packages need and that knows nothing of checkpoints: deadlines and abort signals.
 *
 * @packageDocumentation
 */
export { abortError, withDeadline } from './deadline.ts'
export { aborted, anySignal, once } from './signals.ts'
