import { CkptError, type Manifest } from '@ckpt/contract'
import type { TensorList } from './reading.ts'

const MASK = (1n << 64n) - 1n
const MULTIPLIER = 0xd6e8feb86659fd93n
const LENGTH = 0xff51afd7ed558ccdn

/** Returns the digest of a tensor of `bytes` bytes whose words' terms add up to `sum` (docs/worker-protocol.md, "Digest"). */
export function digestOfSum(bytes: number, sum: bigint): bigint {
  return (mix(BigInt(bytes) ^ LENGTH) + sum) & MASK
}

/** Returns, for each tensor, the sum of its words' terms that its digest implies; undefined if the metas have no digests. */
export function expectedSums({ bytes, digests }: RegisteredTensors): BigUint64Array | undefined {
  if (digests === undefined) return undefined
  const known = new Map<number, bigint>()
  return digests.map((digest, i) => {
    const size = bytes[i]!
    let term = known.get(size)
    if (term === undefined) known.set(size, (term = digestOfSum(size, 0n)))
    return digest - term // modulo 2^64, as the array stores it
  })
}

function mix(value: bigint): bigint {
  let x = value
  x ^= x >> 32n
  x = (x * MULTIPLIER) & MASK
  x ^= x >> 32n
  x = (x * MULTIPLIER) & MASK
  return x ^ (x >> 32n)
}

/** Position of a registered tensor on the first rank that holds it. */
export interface RegisteredTensor {
  readonly rank: number
  /** Index in that rank's table. */
  readonly row: number
}

/** All tensors of a manifest, each once, with the digests that they were registered with. */
export interface RegisteredTensors extends TensorList {
  /** Undefined if the metas have no digests. */
  readonly digests: BigUint64Array | undefined
  readonly holders: readonly RegisteredTensor[]
}

/**
 * Returns the registered tensors in the order of ranks and tables.
 *
 * @throws CkptError `DIGEST_MISMATCH` naming the tensor and both ranks if two ranks hold different bytes under one name.
 */
export function registeredTensors(manifest: Manifest): RegisteredTensors {
  const indices = new Map<string, number>()
  const names: string[] = []
  const bytes: number[] = []
  const holders: RegisteredTensor[] = []
  const digests: (bigint | undefined)[] = []
  for (const { rank, tensors } of manifest.ranks) {
    for (let row = 0; row < tensors.count; row++) {
      const name = tensors.names.at(row)
      const digest = tensors.digests?.[row]
      const known = indices.get(name)
      if (known === undefined) {
        indices.set(name, names.length)
        names.push(name)
        bytes.push(tensors.bytes[row]!)
        digests.push(digest)
        holders.push({ rank, row })
        continue
      }
      digests[known] ??= digest
      if (digest === undefined || digests[known] === digest) continue
      const { rank: other } = holders[known]!
      const text = `ranks ${other} and ${rank} registered different bytes for tensor ${JSON.stringify(name)} of ${manifest.checkpoint}: register the same checkpoint on both`
      throw new CkptError('DIGEST_MISMATCH', text, {
        fields: { tensor: name, ranks: [other, rank], checkpoint: manifest.checkpoint },
      })
    }
  }
  const complete = digests.every((digest) => digest !== undefined)
  return { names, bytes, holders, digests: complete ? BigUint64Array.from(digests) : undefined }
}
