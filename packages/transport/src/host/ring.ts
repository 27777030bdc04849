import { randomBytes } from 'node:crypto'
import { readlinkSync, unlinkSync } from 'node:fs'
import { lstat, readdir, unlink } from 'node:fs/promises'
import { CkptError, type Host, type HostMemory, type Ring, type RingHandle } from '@ckpt/contract'
import { hostAddon, nativeSync } from '../addon.ts'
import { nativeMemory } from './memory.ts'

const SHM = '/dev/shm'
/** `ckpt-<pid>-<PID namespace>-<random>`: enough to tell if the process that created it is still alive. */
const RING_NAME = /^ckpt-(?:near-)?(\d+)-(\d+)-[0-9a-f]{16}$/

/** Used in names for a namespace that /proc does not report: processes of different ones may have it. */
const UNKNOWN = '0'

/**
 * Time in milliseconds for which a ring of a different PID namespace stays after its last write, although nobody has it open.
 */
const FOREIGN_MS = 10 * 60_000

/** Names of rings that this process has created and not closed; removed when it exits. */
const open = new Set<string>()

/** A ring in POSIX shared memory: a control page, then the data. */
export class HostRing implements Ring {
  readonly bytes: number
  readonly handle: RingHandle & { readonly kind: 'shm' }
  readonly memory: HostMemory
  readonly place: { readonly memory: HostMemory; readonly offset: number }
  readonly #forget: () => void
  #closed = false

  constructor(memory: HostMemory, name: string, offset: number, bytes: number) {
    this.memory = memory
    this.bytes = bytes
    this.place = { memory, offset }
    this.#forget = nativeSync(() => hostAddon().unlinkAtEnd(nativeMemory(memory)))
    const { device, inode, bytes: size } = memory.identity!
    this.handle = { kind: 'shm', name, offset, bytes, device, inode, size }
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Removes the name; the memory is released when the last process that has it mapped unmaps it. */
  close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      open.delete(this.handle.name)
      this.#forget()
      try {
        this.memory.unlink()
      } finally {
        this.memory.close()
      }
    }
    return Promise.resolve()
  }
}

/**
 * Creates a ring with `bytes` bytes of data, its pages touched.
 *
 * @throws CkptError `INVALID_ARGUMENT` if `bytes` is not a whole number above 0, `OUT_OF_MEMORY`.
 */
export async function createHostRing(host: Host, bytes: number, threads?: number): Promise<HostRing> {
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new CkptError('INVALID_ARGUMENT', `a ring of ${bytes} bytes`, { fields: { field: 'bytes' } })
  }
  const addon = hostAddon()
  const name = sharedName()
  if (open.size === 0) {
    process.removeListener('exit', removeOpenRings)
    process.on('exit', removeOpenRings)
  }
  open.add(name)
  try {
    // Not locked: only this machine's cores copy from and to it.
    const options = {
      bytes: addon.ringDataOffset + bytes,
      lock: false,
      prefault: true,
      hugePages: true,
      ...(threads && { threads }),
    }
    const memory = await host.createShared(name, options)
    const offset = nativeSync(() => addon.initialiseRing(nativeMemory(memory), bytes))
    return new HostRing(memory, name, offset, bytes)
  } catch (error) {
    open.delete(name)
    throw error
  }
}

/**
 * Returns a new name in /dev/shm; {@link removeStaleRings} removes objects with such names once their process has ended. `kind`
 * distinguishes beacons from rings.
 */
export function sharedName(kind: '' | 'near-' = ''): string {
  return `ckpt-${kind}${process.pid}-${pidNamespace()}-${randomBytes(8).toString('hex')}`
}

/**
 * Returns `ring` as one of ours. @throws CkptError `INVALID_ARGUMENT` for a ring of a different device, `INVALID_STATE` for a
 * closed one.
 */
export function hostRing(ring: Ring): HostRing {
  if (!(ring instanceof HostRing)) {
    throw new CkptError('INVALID_ARGUMENT', 'the ring was not made by the host device', { fields: { field: 'ring' } })
  }
  if (ring.closed) throw new CkptError('INVALID_STATE', `ring ${ring.handle.name} is closed`, { fields: { field: 'ring' } })
  return ring
}

/**
 * Removes rings of this user from /dev/shm whose processes have ended: killed processes could not do it themselves. Processes
 * in other PID namespaces are not visible from here, and their ids may belong to others, so their rings are removed once they
 * are old and nobody has them open or mapped.
 *
 * @returns the removed names.
 */
export async function removeStaleRings(): Promise<string[]> {
  const removed: string[] = []
  const namespace = pidNamespace()
  for (const name of await readdir(SHM).catch(() => [])) {
    const match = RING_NAME.exec(name)
    if (match === null) continue
    const isNear = match[2] === namespace && namespace !== UNKNOWN
    if (isNear && isAlive(Number(match[1]))) continue
    try {
      const found = await lstat(`${SHM}/${name}`)
      if (!found.isFile() || found.uid !== process.geteuid?.()) continue
      if (!isNear && (isYoung(found.mtimeMs) || hostAddon().inUse(`${SHM}/${name}`) !== false)) continue
      await unlink(`${SHM}/${name}`)
      removed.push(name)
    } catch (error) {
      // A different process was faster.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw CkptError.from(error, 'NATIVE_FAILURE')
    }
  }
  return removed
}

/** Returns true for recently written rings: the process may be about to open it, or to hand it to one that is. */
function isYoung(modifiedMs: number): boolean {
  // File times use the wall clock, and so does this; if it jumps, rings stay longer or are only checked for use.
  // eslint-disable-next-line no-restricted-properties
  return Date.now() - modifiedMs < FOREIGN_MS
}

function removeOpenRings(): void {
  for (const name of open) {
    try {
      unlinkSync(`${SHM}/${name}`)
    } catch {
      // The process is ending, so the error has no reader.
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}

function pidNamespace(): string {
  try {
    return /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? UNKNOWN
  } catch {
    return UNKNOWN
  }
}
