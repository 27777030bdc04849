/**
 * The broadcast strategy.
 *
 * @packageDocumentation
 */
export { broadcast } from './broadcast.ts'
export { runPipeline, type PipelineParts } from './run-pipeline.ts'
