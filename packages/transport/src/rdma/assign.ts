import { CkptError } from '@ckpt/contract'

/** Location of a GPU or NIC. */
export interface Place {
  /**
   * PCI functions from the root complex down to the device, from the kernel's device path (`pci0000:00`, `0000:00:01.0`, …);
   * empty if unknown.
   */
  readonly path: readonly string[]
  /** -1 if unknown. */
  readonly numaNode: number
}

/** Distance of a NIC from a GPU: behind the same switch, the same root complex, on the same memory node, or elsewhere. */
export type Nearness = 'switch' | 'root' | 'node' | 'far'

const ORDER: readonly Nearness[] = ['switch', 'root', 'node', 'far']
/** The root complex and its port: sharing more than these means sharing a switch. */
const ROOT_PARTS = 2

/** @returns undefined if the places do not determine it. */
export function nearness(gpu: Place, nic: Place): Nearness | undefined {
  const shared = commonParts(gpu.path, nic.path)
  if (shared > ROOT_PARTS) return 'switch'
  if (shared > 0) return 'root'
  if (gpu.numaNode >= 0 && nic.numaNode >= 0) return gpu.numaNode === nic.numaNode ? 'node' : 'far'
  return gpu.path.length > 0 && nic.path.length > 0 ? 'far' : undefined
}

function commonParts(a: readonly string[], b: readonly string[]): number {
  const differing = a.findIndex((part, index) => part !== b[index])
  return differing === -1 ? a.length : differing
}

/**
 * Assigns NICs to each GPU (or, without GPUs, to each rank of the machine), as indices, ascending. Every NIC serves the same
 * number of GPUs, or every GPU has the same number of NICs. Among such assignments near ones are preferred. If the places are
 * unknown, or do not distinguish them, neighbours in the lists are paired: of 8 GPUs and 2 NICs the first four share the first.
 *
 * @throws CkptError `PLAN_INFEASIBLE` if the counts do not divide, with the possible numbers of NICs.
 */
export function assignNics(gpus: readonly Place[], nics: readonly Place[]): number[][] {
  if (gpus.length === 0 || nics.length === 0) throw impossible(gpus.length, nics.length)
  const perGpu = nics.length / gpus.length
  const perNic = gpus.length / nics.length
  if (!Number.isInteger(perGpu) && !Number.isInteger(perNic)) throw impossible(gpus.length, nics.length)
  // Seats: the less numerous side has several.
  const seatsPerGpu = Math.max(1, perGpu)
  const seatsPerNic = Math.max(1, perNic)
  const gpuSeats = gpus.flatMap((_, gpu) => Array<number>(seatsPerGpu).fill(gpu))
  const nicSeats = nics.flatMap((_, nic) => Array<number>(seatsPerNic).fill(nic))
  const cost = (gpu: number, nic: number): number => {
    const near = nearness(gpus[gpu]!, nics[nic]!)
    return near === undefined ? ORDER.length : ORDER.indexOf(near)
  }
  // First in the lists' order, then seats are exchanged as long as that reduces the total distance.
  const taken = nicSeats.slice()
  for (let better = true; better;) {
    better = false
    for (let a = 0; a < taken.length; a++) {
      for (let b = a + 1; b < taken.length; b++) {
        const now = cost(gpuSeats[a]!, taken[a]!) + cost(gpuSeats[b]!, taken[b]!)
        const swapped = cost(gpuSeats[a]!, taken[b]!) + cost(gpuSeats[b]!, taken[a]!)
        if (swapped >= now) continue
        ;[taken[a], taken[b]] = [taken[b]!, taken[a]!]
        better = true
      }
    }
  }
  const assigned: number[][] = gpus.map(() => [])
  taken.forEach((nic, seat) => assigned[gpuSeats[seat]!]!.push(nic))
  return assigned.map((list) => list.toSorted((a, b) => a - b))
}

function impossible(gpus: number, nics: number): CkptError {
  const fitting = Array.from({ length: 32 }, (_, index) => index + 1).filter(
    (count) => gpus > 0 && (gpus % count === 0 || count % gpus === 0),
  )
  const text =
    gpus === 0
      ? 'there is no GPU or rank to give NICs to'
      : `${gpus} GPUs or ranks cannot share ${nics} NICs evenly; name ${fitting.slice(0, 8).join(', ')}${fitting.length > 8 ? ', …' : ''} of them with PS_P2P_STORE_RDMA_DEVICES or NCCL_IB_HCA`
  return new CkptError('PLAN_INFEASIBLE', text, { fields: { field: 'nics' } })
}
