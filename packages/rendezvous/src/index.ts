/**
 * Communication between ranks: join, heartbeat, all-gather, barrier, abort by epoch; and the compact encoding of the metadata
 * they exchange.
 *
 * @packageDocumentation
 */
export { fetchPublished, type FetchOptions } from './fetch.ts'
export { joinRendezvous } from './join.ts'
export { rendezvousOptionsFromEnv } from './env.ts'
export { launchedBy, type Launched } from './launchers.ts'
export { startCoordinator, type CoordinatorHandle } from './coordinator/host.ts'
export type { CoordinatorOptions, JoinOptions } from './options.ts'
export { encodeRankMetas } from './metas/encode.ts'
export { decodeRankMetas } from './metas/decode.ts'
