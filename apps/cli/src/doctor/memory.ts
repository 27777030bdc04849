import { statfsSync } from 'node:fs'
import { formatSize } from '../sizes.ts'
import { missing, ok, required, warn, type Check, type Section } from './check.ts'
import { hasCapability } from './machine.ts'
import type { SystemFiles } from './system-files.ts'

const GIB = 2 ** 30
/** Docker's default is 64 MiB, too small for any ring. */
const SMALL_SHM = GIB
const FEW_FILES = 4096
const IPC_LOCK = 14

/** What the memory functions ask the system beside its files; figures in bytes. */
export interface MemoryFigures {
  /** The cgroup's limit; undefined where there is none. */
  readonly limit: number | undefined
  readonly shm: { readonly total: number; readonly free: number } | undefined
}

/** Figures of this process and machine. */
export function memoryFigures(): MemoryFigures {
  const limit = process.constrainedMemory()
  return { limit: limit > 0 && limit < 2 ** 60 ? limit : undefined, shm: sharedMemory() }
}

function sharedMemory(): MemoryFigures['shm'] {
  try {
    const { bsize, blocks, bavail } = statfsSync('/dev/shm')
    return { total: bsize * blocks, free: bsize * bavail }
  } catch {
    return undefined
  }
}

/** Memory, and the limits of this process on it. */
export function memorySection(files: SystemFiles, figures: MemoryFigures = memoryFigures()): Section {
  const checks = [memory(files, figures), shm(figures), memlock(files), openFiles(files), hugePages(files), ptrace(files)]
  return { title: 'Memory and limits', checks }
}

function memory(files: SystemFiles, { limit }: MemoryFigures): Check {
  const info = files.text('/proc/meminfo') ?? ''
  const bytes = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(info)?.[1] ?? 0) * 1024
  const total = bytes('MemTotal')
  const available = bytes('MemAvailable')
  const capped = limit !== undefined && limit < total
  const found = `${formatSize(total)}, ${formatSize(available)} available, ${capped ? `cgroup limit ${formatSize(limit)}` : 'no cgroup limit'}`
  return ok('memory', found, { totalBytes: total, availableBytes: available, cgroupBytes: limit ?? null })
}

function shm({ shm: found }: MemoryFigures): Check {
  const remedy =
    'mount it, or give the container more: docker run --ipc=host or --shm-size=64g; Kubernetes: an emptyDir with medium Memory'
  if (found === undefined || found.total === 0) return required(missing('shm', '/dev/shm is not there', remedy))
  const text = `/dev/shm: ${formatSize(found.total)}, ${formatSize(found.free)} free`
  const facts = { totalBytes: found.total, freeBytes: found.free }
  return required(
    found.total < SMALL_SHM || found.free < SMALL_SHM / 4 ? warn('shm', text, remedy, facts) : ok('shm', text, facts),
  )
}

/** Soft and hard limit of a row of /proc/self/limits; Infinity for `unlimited`. */
function limitOf(files: SystemFiles, row: string): { soft: number; hard: number } | undefined {
  const match = new RegExp(`^${row}\\s+(\\S+)\\s+(\\S+)`, 'm').exec(files.text('/proc/self/limits') ?? '')
  const number = (text: string) => (text === 'unlimited' ? Infinity : Number(text))
  return match ? { soft: number(match[1]!), hard: number(match[2]!) } : undefined
}

function memlock(files: SystemFiles): Check {
  const limit = limitOf(files, 'Max locked memory')
  const exempt = hasCapability(files, IPC_LOCK)
  const size = limit === undefined ? 'unknown' : limit.soft === Infinity ? 'unlimited' : formatSize(limit.soft)
  const found = `${size}${exempt && limit?.soft !== Infinity ? ', which CAP_IPC_LOCK lifts' : ''}`
  const facts = { bytes: limit?.soft === Infinity ? null : limit?.soft, capIpcLock: exempt }
  if (exempt || limit?.soft === Infinity) return ok('memlock', found, facts)
  const remedy =
    'checkpoints stay pageable and RDMA cannot register them: ulimit -l unlimited; docker run --ulimit memlock=-1; systemd: LimitMEMLOCK=infinity'
  return warn('memlock', found, remedy, facts)
}

function openFiles(files: SystemFiles): Check {
  const limit = limitOf(files, 'Max open files')
  if (limit === undefined) return ok('files', 'unknown')
  const facts = { soft: limit.soft, hard: limit.hard }
  if (limit.soft >= FEW_FILES) return ok('files', `${limit.soft} open files`, facts)
  return warn('files', `${limit.soft} open files`, 'ulimit -n 65536: checkpoints of many files and NCCL need more', facts)
}

function hugePages(files: SystemFiles): Check {
  const chosen = (path: string) => /\[(.+?)\]/.exec(files.text(path) ?? '')?.[1] ?? 'unknown'
  const anonymous = chosen('/sys/kernel/mm/transparent_hugepage/enabled')
  const shared = chosen('/sys/kernel/mm/transparent_hugepage/shmem_enabled')
  const found = `transparent huge pages: ${anonymous}, in shared memory: ${shared}`
  const facts = { anonymous, shared }
  if (anonymous !== 'never') return ok('thp', found, facts)
  return warn(
    'thp',
    found,
    'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: registration touches fewer pages',
    facts,
  )
}

function ptrace(files: SystemFiles): Check {
  const scope = files.text('/proc/sys/kernel/yama/ptrace_scope')
  const found =
    scope === undefined || scope === '0' ? 'ptrace is not restricted' : `yama ptrace_scope ${scope}; rings do not depend on it`
  return ok('ptrace', found, { yamaScope: scope === undefined ? null : Number(scope) })
}
