import type { Recording } from '@ckpt/contract'
import type { RegisteredTensors } from './digests.ts'

/**
 * Names of the tensors that a worker with this recording must compare in the ring, because its parts of them cannot be compared
 * with the registered bytes afterwards. For all others the kept bytes are compared, wherever they came from, and the worker
 * does not use the rest.
 *
 * @param present participating ranks, which can vouch for their registered bytes.
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
