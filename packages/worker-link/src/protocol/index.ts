/**
 * The worker protocol's messages, for engine workers written in TypeScript.
 *
 * @packageDocumentation
 */
export {
  MESSAGE_FIELDS,
  WORKER_PROTOCOL,
  decodeRankMessage,
  decodeWorkerMessage,
  encodeMessage,
  recordingFrame,
  ringTensor,
  tensorFrame,
  type RankMessage,
  type RankRequest,
  type RoutesAnswer,
  type TensorFrame,
  type WorkerMessage,
} from './messages.ts'
export { processMark } from './process-watch.ts'
