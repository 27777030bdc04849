/**
 * Code shared by strategies that send tensors to engine workers through a ring.
 *
 * @packageDocumentation
 */
export { noCopies, type KeptPlaces } from './pull/landing.ts'
export { pullBuckets, type PullOptions } from './pull/pull-buckets.ts'
export { isSourceFailure } from './pull/source-failure.ts'
export { Recordings } from './recordings.ts'
export { runPipeline, type PipelineParts } from './run-pipeline.ts'
export { planStaged, stagedContext } from './staged-context.ts'
export { StagedAttempt, stagedSpans, type StagedOptions } from './staged-attempt.ts'
