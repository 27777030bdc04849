/**
 * What several packages need and that knows nothing of checkpoints: deadlines, abort signals, secrets, alignment.
 *
 * @packageDocumentation
 */
export { alignDown, alignUp } from './align.ts'
export { abortError, withDeadline } from './deadline.ts'
export { firstIssue } from './issue.ts'
export { sameSecret } from './same-secret.ts'
export { aborted, anySignal, onAbort, once } from './signals.ts'
