/**
 * What several packages need and that knows nothing of checkpoints: deadlines, abort signals, polling, frames,
 * HTTP requests, files, secrets, alignment.
 *
 * @packageDocumentation
 */
export { alignDown, alignUp } from './align.ts'
export { abortError, withDeadline } from './deadline.ts'
export { FrameReader, type Frame, type FrameFormat } from './frame-reader.ts'
export { HttpClient, type HttpAnswer, type HttpErrorCodes, type HttpLimits, type HttpTarget } from './http-client.ts'
export { firstIssue } from './issue.ts'
export { poll, type PollOptions } from './poll.ts'
export { sameSecret } from './same-secret.ts'
export { aborted, anySignal, onAbort, once } from './signals.ts'
export { writeWholeFile } from './whole-file.ts'
