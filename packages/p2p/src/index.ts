/**
 * The p2p strategy: joining ranks pull a checkpoint from the host memory of ranks that hold it.
 *
 * @packageDocumentation
 */
export { joiningBuckets, p2p, type P2pOptions } from './p2p.ts'
export { openingOf } from './opening.ts'
export { reachRank, type ReachOptions } from './reach.ts'
export { accessSchema, holdsSecret, restoreAccess, storeAccess } from './serving/access.ts'
export { SECRET_VARIABLE, serve, type ServeOptions } from './serving/endpoints.ts'
export type { WireUse } from './serving/wire.ts'
export { Serving, type ServedEndpoint } from './serving/serving.ts'
