/**
 * Types, interfaces and errors that every ckpt package shares. It imports nothing.
 *
 * @packageDocumentation
 */
export {
  CkptError,
  ENGINE_HTTP_ERRORS,
  ERROR_CODES,
  type ErrorCode,
  type ErrorFields,
  type ErrorScope,
  type SerializedError,
} from './errors.ts'
export { identityChange, identityOf, type FileIdentity, type ReadableFile } from './file-identity.ts'
export { engineKey } from './engine-key.ts'
export { requireSocketDescriptors } from './descriptors.ts'
export { checkMessagePack } from './message-pack.ts'
export { checkSecret, makeSecretFile, readSecretFile, unlessThere, userSecretFile } from './secrets.ts'
export { shown } from './shown.ts'
export { VARIABLES, refuseServiceLinks, serviceLink, type Environment } from './environment.ts'
export { startReminders, AGAIN_MS, FIRST_MS, type Waiting } from './waiting.ts'
export { DTYPES, DTYPE_BITS, isDType, tensorBytes, type DType } from './dtype.ts'
export {
  MAX_DIMENSIONS,
  MAX_NAME_LENGTH,
  nameHash,
  nameHashes,
  nameList,
  tensorAt,
  tensorTable,
  type NameList,
  type TensorMeta,
  type TensorTable,
} from './tensor.ts'
export type { Manifest, RankMetas, SegmentMeta } from './manifest.ts'
export { memoryPlace, type ForeignMemory, type MemoryIdentity, type MemoryPlace, type ProcessName } from './memory-identity.ts'
export { ContiguousCopies, StridedCopies, type ContiguousCopy, type StridedCopy } from './copy-lists.ts'
export type { BucketColumns, BucketPull, CopyColumns, ItemColumns, PipelineMode, PullRuns, TransferPlan } from './plan.ts'
export {
  SUM_COLUMNS,
  type AllocateOptions,
  type FileReadRequest,
  type FileReadStats,
  type Host,
  type HostMemory,
  type MemoryLimit,
  type MemoryRange,
  type TransferStats,
} from './host.ts'
export type {
  Collective,
  CollectiveOptions,
  Device,
  DeviceReader,
  DeviceReadRequest,
  DeviceSource,
  Exchange,
  MeasuredOrder,
  PipelineJob,
  PipelineRun,
  PipelineOrder,
  PipelineStats,
  Ring,
  RingHandle,
} from './device.ts'
export {
  type ConnectPeerOptions,
  type EndpointDescriptor,
  type OneSided,
  type OneSidedKind,
  type OneSidedPeer,
  type OneSidedRequest,
  type RegionDescriptor,
  type RegisterRegionOptions,
  type RegisteredRegion,
} from './one-sided.ts'
export type {
  EngineAdapter,
  EngineCall,
  EngineSession,
  EngineStart,
  RingTensor,
  WorkerEndpoint,
  WorkerProtocol,
  WorkerState,
} from './engine.ts'
export type { AccessPoint, OpenedMemory, RankAccess, Reach, ReachedRank, SpreadAccess } from './reach.ts'
export type {
  CheckedWorker,
  Exchanges,
  FailedAttempt,
  Kept,
  KeptByRank,
  PreparedTensors,
  ReservedMemory,
  RingAccess,
  // Kept for one minor version.
  // eslint-disable-next-line @typescript-eslint/no-deprecated
  Strategy,
  UpdateAttempt,
  UpdateContext,
  UpdateStrategy,
  VerifyOptions,
} from './strategy.ts'
export type { PlannedUpdate, PlanOptions, PullStats, StagedContext, StagedResult, StagedWay } from './staging.ts'
export type {
  DirectReport,
  OpaqueReport,
  OutcomeSpans,
  MeasuredWire,
  PulledSource,
  PullReport,
  StageTimes,
  UpdateOutcome,
  VerificationLevel,
} from './update-report.ts'
export {
  canRecord,
  OLDEST_RECORDING_PROTOCOL,
  type RecordingSession,
  type UpdateSession,
  type WorkerGreeting,
} from './worker-session.ts'
export { SteadyProgress, type ByteProgress } from './progress.ts'
export type { DirectCopies, DirectDevice, DirectJob, DirectStats, MappedStorages, WorkerStorage } from './direct.ts'
export type { OpaqueTensor, Recording, Route, RoutedParameter, StorageHandle, TensorForm } from './routes.ts'
export type { Blob, CallOptions, Epoch, GatherOptions, RankReport, Rendezvous } from './rendezvous.ts'
