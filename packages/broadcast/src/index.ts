/**
 * The broadcast strategy.
 *
 * @packageDocumentation
 */
export { broadcast } from './broadcast.ts'
