import { randomUUID } from 'node:crypto'
import {
  CkptError,
  memoryPlace,
  type DirectDevice,
  type ForeignMemory,
  type HostMemory,
  type MemoryIdentity,
  type ProcessName,
} from '@ckpt/contract'

/** One of a rank's segments, as offered to other ranks of its host. */
export interface OfferedSegment {
  /** Id that is new for every memory, because the same file may have been rewritten. */
  readonly id: string
  /** Absent for memory that no other process can map. */
  readonly memory?: OfferedMemory | undefined
}

/**
 * Identity of a segment's memory, and the place to open it: by name in /dev/shm, by the rank's own descriptor, or by either.
 */
export interface OfferedMemory extends Omit<MemoryIdentity, 'modified'> {
  readonly modified?: string | undefined
  readonly path?: string | undefined
  readonly descriptor?: number | undefined
}

const SHM = '/dev/shm/'
const ids = new WeakMap<HostMemory, string>()

/** Describes a memory for other processes of this host. */
export function offerSegment(memory: HostMemory): OfferedSegment {
  let id = ids.get(memory)
  if (id === undefined) ids.set(memory, (id = randomUUID()))
  const { identity, name, kind } = memory
  if (identity === undefined || name === undefined) return { id }
  const path = kind === 'shared' ? `${SHM}${name}` : kind === 'file' && name.startsWith(SHM) ? name : undefined
  const { device, inode, bytes, modified, descriptor } = identity
  return {
    id,
    memory: {
      device,
      inode,
      bytes,
      ...(modified !== undefined && { modified }),
      ...(path !== undefined && { path }),
      ...(descriptor !== undefined && { descriptor }),
    },
  }
}

/**
 * Maps a different rank's segment. The rank's own descriptor still leads to a file that was removed or replaced under its name;
 * a rank in a different PID namespace can use only the name.
 *
 * @throws CkptError `UNSUPPORTED` for memory that no other process can map, or as for `Host.openForeign`.
 */
export async function openSegment(
  direct: DirectDevice,
  offered: OfferedSegment | undefined,
  owner: ProcessName | undefined,
  what: string,
): Promise<HostMemory> {
  const memory = offered?.memory
  if (memory === undefined) {
    const text = `${what} is in memory that no other rank can map: register files in place, or create the rank with shareMemory`
    throw new CkptError('UNSUPPORTED', text, { fields: { field: 'segments' } })
  }
  const { device, inode, bytes, modified } = memory
  const identity = { device, inode, bytes, ...(modified !== undefined && { modified }) }
  const places = placesOf(memory, owner, what)
  let failure: CkptError | undefined
  for (const place of places) {
    try {
      return await direct.mapMemory({ place, identity }, what)
    } catch (error) {
      // Opens it by name only if the rank's descriptors cannot be reached: a changed file has also changed under its name.
      if (!CkptError.is(error, 'MEMORY_REFUSED')) throw error
      failure ??= error
    }
  }
  throw (
    failure ??
    new CkptError('MEMORY_REFUSED', `${what} is offered without a place to open it`, { fields: { field: 'segments' } })
  )
}

function placesOf({ path, descriptor }: OfferedMemory, owner: ProcessName | undefined, what: string): ForeignMemory['place'][] {
  return [
    ...(owner !== undefined && descriptor !== undefined ? [{ kind: 'descriptor' as const, process: owner, descriptor }] : []),
    ...(path === undefined ? [] : [memoryPlace(path, owner, what)]),
  ]
}
