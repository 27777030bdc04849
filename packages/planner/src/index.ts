/**
 * Pure functions from a manifest and a topology to a transfer plan.
 *
 * @packageDocumentation
 */
export { copiesFor } from './copies.ts'
export { bucketTensors } from './lookup.ts'
export type { PlanOptions } from './options.ts'
export { planBroadcast, planP2p, type P2pPlanOptions } from './plan.ts'
export { modelPull, type ModelledPull, type PullModel } from './pull-model.ts'
export { pullOf } from './pulls.ts'
export { assignReceivers, type Assignment, type AssignmentInput, type Endpoint } from './receivers.ts'
