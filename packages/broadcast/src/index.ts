/**
 * The broadcast strategy.
 *
 * @packageDocumentation
 */
export { broadcast, broadcastBuckets } from './broadcast.ts'
