/**
 * The direct strategy: shard-exact updates, written straight into the engine's parameters.
 *
 * @packageDocumentation
 */
export { auto, direct, type DirectOptions } from './direct.ts'
