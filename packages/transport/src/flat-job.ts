import type { PipelineJob } from '@ckpt/contract'

/**
 * Returns the part of one member's job that is the same for every addon: the contract's columns. Sources and rings are added to
 * it.
 */
export function flatJob(job: PipelineJob, position: number) {
  const { buckets, copies } = job
  return {
    position,
    bucketCount: buckets.count,
    owner: buckets.owner,
    bytes: buckets.bytes,
    ringOffset: buckets.ringOffset,
    after: buckets.after,
    copyCount: copies.count,
    segment: copies.segment,
    segmentOffset: copies.segmentOffset,
    bucketOffset: copies.bucketOffset,
    copyBytes: copies.bytes,
    firstCopy: copies.firstCopy,
    chunkBytes: job.chunkBytes,
    serial: job.mode === 'serial',
    timeoutMs: Math.ceil(job.timeoutMs),
    arriveIn: job.arrivals?.into,
  }
}
