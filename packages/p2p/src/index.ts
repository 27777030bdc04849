/**
 * The p2p strategy: ranks that join pull a checkpoint from the host memory of those that hold it.
 *
 * @packageDocumentation
 */
export { p2p, type P2pOptions } from './p2p.ts'
export { reachRank, type Reached } from './reach.ts'
