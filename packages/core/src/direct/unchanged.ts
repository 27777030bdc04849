import { CkptError, tensorAt, type Host, type HostMemory, type MemoryRange, type RankMetas } from '@ckpt/contract'

/** A batch ends at this many tensors or bytes, so that other native work gets its turn in between. */
const BATCH_TENSORS = 16_384
const BATCH_BYTES = 4 * 1024 ** 3

/**
 * Checks that a rank's tensors are what they were when their digests were taken, where they are in memory that others can change: files
 * that were registered in place. What parameters must hold is worked out from that memory and would not show it.
 *
 * @throws CkptError `DIGEST_MISMATCH` naming the tensor.
 */
export async function assertUnchanged(
  host: Host,
  segments: readonly HostMemory[],
  { rank, tensors }: RankMetas,
): Promise<void> {
  const { digests } = tensors
  if (digests === undefined) return
  const shared = segments.map(({ kind }) => kind !== 'anonymous')
  for (let next = 0; next < tensors.count;) {
    const ranges: MemoryRange[] = []
    const indices: number[] = []
    for (let bytes = 0; next < tensors.count && ranges.length < BATCH_TENSORS && bytes < BATCH_BYTES; next++) {
      const memory = tensors.segments[next]!
      if (shared[memory] !== true) continue
      ranges.push({ memory, offset: tensors.offsets[next]!, bytes: tensors.bytes[next]! })
      indices.push(next)
      bytes += tensors.bytes[next]!
    }
    if (ranges.length === 0) continue
    const found = await host.digest(segments, ranges)
    const changed = indices.findIndex((index, i) => found[i] !== digests[index])
    if (changed < 0) continue
    const { name } = tensorAt(tensors, indices[changed]!)
    const hex = (digest: bigint) => digest.toString(16).padStart(16, '0')
    const text = `digest of ${name} is ${hex(found[changed]!)}, not ${hex(digests[indices[changed]!]!)}: it changed after rank ${rank} registered it`
    throw new CkptError('DIGEST_MISMATCH', text, { fields: { rank, tensor: name } })
  }
}
