import type { Recording } from '@ckpt/contract'
import type { RegisteredTensors } from './digests.ts'

/**
 * Names of the tensors that a worker with this recording must compare as they lie in the ring: what it keeps of them, if anything, cannot be held
 * against what was registered afterwards. Of all others the bytes that it keeps are, wherever they came from; the rest of them it does not use.
 *
 * @param present ranks that take part, which can vouch for what they registered.
 */
export function comparedInRing(
  { tensors, routes, opaque }: Recording,
  { names, holders }: Pick<RegisteredTensors, 'names' | 'holders'>,
  present: ReadonlySet<number>,
): Set<string> {
  const vouched = new Set(names.filter((_, index) => present.has(holders[index]!.rank)))
  const compared = new Set(opaque.map(({ tensor }) => tensors[tensor]!.name))
  for (const { tensor } of routes) {
    const { name } = tensors[tensor]!
    if (!vouched.has(name)) compared.add(name)
  }
  return compared
}
