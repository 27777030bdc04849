/**
 * Pure functions from a manifest and a topology to a transfer plan.
 *
 * @packageDocumentation
 */
export { copiesFor } from './copies.ts'
export { bucketTensors } from './lookup.ts'
export { planBroadcast, planP2p, planWithin, type P2pPlanOptions } from './plan.ts'
export { modelPull, type ModelledPull, type PullModel } from './pull-model.ts'
export { pullOf } from './pulls.ts'
export { assignReceivers, type Assignment, type AssignmentInput, type Endpoint } from './receivers.ts'
export {
  planDirect,
  type DirectPlan,
  type DirectPlanOptions,
  type OpaqueName,
  type RankDirectPlan,
  type RecordedRank,
} from './direct/plan.ts'
export { heldTensors, recordingMismatch, type Held, type Holder } from './direct/fit.ts'
export { subsetOf } from './direct/subset.ts'
export { LOADERS, dealtWorkload, predict, simulate, topology } from './simulate/index.ts'
export type {
  LinkUse,
  MeasuredMachine,
  MeasuredRun,
  Prediction,
  ProcessorReading,
  Rates,
  SimulateOptions,
  Simulation,
  Workload,
} from './simulate/index.ts'
export { comparedInRing } from './verify/ring-check.ts'
export {
  digestOfSum,
  expectedSums,
  registeredTensors,
  type RegisteredTensor,
  type RegisteredTensors,
} from './verify/digests.ts'
export { findMismatch, planVerify, type Mismatch, type VerifyPlan, type Voucher } from './verify/plan.ts'
export { decodeReading, encodeReading, type Reading, type TensorList } from './verify/reading.ts'
export { parameterSums, regionBytes, regionOf, sourceSums, type TensorRegion } from './verify/region.ts'
