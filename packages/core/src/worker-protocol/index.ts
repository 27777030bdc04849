/**
 * The worker protocol's messages, for engine workers written in TypeScript.
 *
 * @packageDocumentation
 */
export {
  WORKER_PROTOCOL,
  decodeRankMessage,
  decodeWorkerMessage,
  encodeMessage,
  ringTensor,
  tensorFrame,
  type RankMessage,
  type RankRequest,
  type TensorFrame,
  type WorkerMessage,
} from './messages.ts'
