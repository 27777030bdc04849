import { realpathSync } from 'node:fs'
import { probeRdma as probe, type RdmaProbe } from '@ckpt/rdma-core-bindings'
import { native } from '../addon.ts'
import type { Place } from './assign.ts'

/**
 * Returns the RDMA support of this machine: libibverbs, devices, ports, GIDs, and what is missing.
 *
 * @throws CkptError `ADDON_UNAVAILABLE` if the addon itself is not built.
 */
export async function probeRdma(): Promise<RdmaProbe> {
  return native(probe)
}

/** Returns the location of a PCI device (domain:bus:device.function), as far as the kernel reports it. */
export function placeOf({ pciBusId, numaNode }: { pciBusId: string | undefined; numaNode: number }): Place {
  if (pciBusId === undefined) return { path: [], numaNode }
  try {
    const path = realpathSync(`/sys/bus/pci/devices/${pciBusId.toLowerCase()}`)
    return { path: path.split('/').filter((part) => /^(pci)?[0-9a-f]{4,}:/.test(part)), numaNode }
  } catch {
    return { path: [], numaNode }
  }
}
