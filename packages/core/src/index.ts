/**
 * ParameterServer: registers checkpoints, gathers metas and updates inference engines in place.
 *
 * @packageDocumentation
 */
export type { GatherMetasOptions, PrepareOptions, PrepareReport, UpdateOptions } from './call-options.ts'
export { ParameterServer } from './parameter-server.ts'
export { MAX_SOCKET_PATH, RuntimeDir, runtimeCandidates, type RuntimeCandidate } from './runtime-dir.ts'
export { memoryLimits, type MemoryLimits, type ParameterServerOptions } from './options.ts'
export type { Health } from './health.ts'
export { examinePeers, type PeerFacts, type Peers } from './near/peers.ts'
export type { RankObserver } from './observers.ts'
export type { WorkerStatus } from './engine-states.ts'
export type { Verification } from './verify/verification.ts'
export type { StepTimes, UpdateReport } from './report.ts'
export { CkptError, type ErrorCode } from '@ckpt/contract'
export type { DirectReport, OpaqueReport, StageTimes, VerificationLevel } from '@ckpt/contract'
export {
  STAGES,
  joinSpans,
  timelineOf,
  type Timeline,
  type TimelineOptions,
  type TimelineSpan,
  type TimelineStep,
} from './timeline.ts'
export { traceEvents, writeTrace, type TraceEvent } from './trace.ts'
export { broadcast } from '@ckpt/broadcast'
export { launchedBy, type Launched } from '@ckpt/rendezvous'
export { auto, direct, type DirectOptions } from '@ckpt/direct'
export { controlEngine, controlRequest, type ControlEngineOptions } from '@ckpt/worker-link'
export { gatherManifest } from './gather.ts'
export { decodeMetas, encodeMetas, readMetas, writeMetas, type Metas } from './metas-file.ts'
export type { ServeOptions } from '@ckpt/p2p'
export { manifestOf, tensorCount } from './manifest.ts'
export type { MemoryLimit } from '@ckpt/contract'
export type { CheckpointSource, Fill, Place, RegisterOptions } from '@ckpt/memory'
export {
  createCudaDevice,
  nodeFacts,
  probeCuda,
  type AddonFacts,
  type HostLimits,
  type CudaDevice,
  type CudaDeviceInfo,
  type CudaDeviceOptions,
  type CudaLibrary,
  type CudaProbe,
  type NodeFacts,
  type RdmaChoice,
  type RdmaDeviceInfo,
  type RdmaNic,
  type RdmaProbe,
  type UcxFacts,
} from '@ckpt/transport'
export type { Activity, HeldCheckpoint, Member, PastUpdate, RunningUpdate } from './activity.ts'
