import { CkptError } from './errors.ts'

/**
 * Identity of a piece of memory, independent of its name: `fstat` of its owner's own descriptor. A process that opens it from
 * elsewhere compares it, because a path, a descriptor's number and a process id may refer to something else there, or later.
 */
export interface MemoryIdentity {
  /** `st_dev` and `st_ino`, decimal, because an inode may have more bits than a number keeps. */
  readonly device: string
  readonly inode: string
  /** Size in bytes of the whole object. */
  readonly bytes: number
  /**
   * Time of the last write to a file that is used in place, in nanoseconds since the epoch, decimal; absent for memory that is
   * written to.
   */
  readonly modified?: string
}

/** A process of this machine, identified by more than an id that other processes may have elsewhere, or later. */
export interface ProcessName {
  readonly pid: number
  /** Number of its PID namespace, a colon, and its start time: field 22 of proc_pid_stat(5). */
  readonly mark: string
}

/** Place where memory can be opened: an object of /dev/shm by its path below it, or a descriptor of a process. */
export type MemoryPlace =
  | { readonly kind: 'shm'; readonly path: string }
  | { readonly kind: 'descriptor'; readonly process: ProcessName; readonly descriptor: number }

/** Memory of another process of this user. */
export interface ForeignMemory {
  readonly place: MemoryPlace
  readonly identity: MemoryIdentity
}

const SHM_PATH = /^\/dev\/shm\/(.+)$/
const DESCRIPTOR_PATH = /^\/proc\/([1-9]\d{0,9})\/fd\/(0|[1-9]\d{0,9})$/

/**
 * Returns the place of a path that a different process sent. Only `/dev/shm/NAME`, or `/proc/PID/fd/N` of the process that sent
 * it, is allowed.
 *
 * @param what names the memory in errors
 * @throws CkptError `MEMORY_REFUSED` naming the path
 */
export function memoryPlace(path: string, process: ProcessName | undefined, what: string): MemoryPlace {
  const refuse = (why: string) => {
    const shown = JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path)
    return new CkptError('MEMORY_REFUSED', `${what}, offered at ${shown}: ${why}`, {
      fields: { field: 'path', value: shown },
    })
  }
  const shm = SHM_PATH.exec(path)
  if (shm !== null) {
    const steps = shm[1]!.split('/')
    if (steps.some((step) => step === '' || step === '.' || step === '..' || step.includes('\0'))) {
      throw refuse('the path leaves /dev/shm')
    }
    return { kind: 'shm', path: shm[1]! }
  }
  const descriptor = DESCRIPTOR_PATH.exec(path)
  if (descriptor === null) throw refuse('only /dev/shm/NAME and /proc/PID/fd/N of its own process are allowed')
  if (process === undefined) throw refuse('the process did not send its PID namespace and start time')
  if (Number(descriptor[1]) !== process.pid) throw refuse(`it belongs to process ${process.pid}`)
  return { kind: 'descriptor', process, descriptor: Number(descriptor[2]) }
}
