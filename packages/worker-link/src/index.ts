/**
 * The rank's side of engine workers: the worker protocol, checkpoint-engine's protocol, and monitoring of their processes.
 *
 * @packageDocumentation
 */
export { controlEngine, controlRequest, type ControlEngineOptions } from './control-engine.ts'
export { openSession, workerAddress, type WorkerAddressOptions } from './open-session.ts'
export { recordingFrame, recordingSchema, storageSchema } from './protocol/messages.ts'
export { processMark, watchProcess } from './protocol/process-watch.ts'
export { checkRecording, checkStorages } from './protocol/recording-check.ts'
