import { StridedCopies, type Host, type HostMemory, type PullRuns } from '@ckpt/contract'
import type { Place } from './place.ts'

/** Copies runs of bytes out of memory of this process, by index of the segment. */
export async function copyRuns(
  host: Host,
  segments: readonly HostMemory[],
  runs: PullRuns,
  { memory, offset }: Place,
): Promise<void> {
  const copies = StridedCopies.from(
    Array.from({ length: runs.count }, (_, i) => ({
      source: runs.segment[i]!,
      sourceOffset: runs.segmentOffset[i]!,
      sourcePitch: 0,
      destination: segments.length,
      destinationOffset: offset + runs.bucketOffset[i]!,
      destinationPitch: 0,
      rowBytes: runs.bytes[i]!,
      rows: 1,
    })),
  )
  await host.copy([...segments, memory], copies)
}
