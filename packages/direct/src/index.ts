/**
 * The direct strategy: shard-exact updates, written directly into the engine's parameters.
 *
 * @packageDocumentation
 */
export { auto, direct, type DirectOptions } from './direct.ts'
