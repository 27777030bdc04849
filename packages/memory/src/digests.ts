import type { Host, HostMemory, MemoryRange, TensorTable } from '@ckpt/contract'

/** Number of tensors or bytes at which a batch ends, so that other native work can run in between. */
const BATCH_TENSORS = 16_384
const BATCH_BYTES = 4 * 1024 ** 3

/**
 * Computes the digest of each tensor of a table (docs/worker-protocol.md, "Digest"), by index. @throws CkptError as for
 * {@link Host.digest}.
 */
export async function computeTableDigests(
  host: Host,
  segments: readonly HostMemory[],
  table: TensorTable,
): Promise<BigUint64Array> {
  const digests = new BigUint64Array(table.count)
  for (let first = 0; first < table.count;) {
    const ranges: MemoryRange[] = []
    let bytes = 0
    for (let i = first; i < table.count && ranges.length < BATCH_TENSORS && bytes < BATCH_BYTES; i++) {
      ranges.push({ memory: table.segments[i]!, offset: table.offsets[i]!, bytes: table.bytes[i]! })
      bytes += table.bytes[i]!
    }
    digests.set(await host.digest(segments, ranges), first)
    first += ranges.length
  }
  return digests
}
