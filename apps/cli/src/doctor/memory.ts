import { statfsSync } from 'node:fs'
import type { MemoryLimit } from '@ckpt/core'
import { formatSize } from '../sizes.ts'
import { missing, ok, required, warn, type Check, type Section } from './check.ts'
import { hasCapability } from './machine.ts'
import type { SystemFiles } from './system-files.ts'

const GIB = 2 ** 30
/** Docker's default is 64 MiB, too small for any ring. */
const SMALL_SHM = GIB
const FEW_FILES = 4096
/** A control group that leaves less than this has too little for any model. */
const LITTLE_MEMORY = GIB
const IPC_LOCK = 14

/** Figures that the memory functions get from the system in addition to its files; in bytes. */
export interface MemoryFigures {
  /** Limits on memory, the tightest first; empty if the host addon is not loaded. */
  readonly limits: readonly MemoryLimit[]
  readonly shm: { readonly total: number; readonly free: number } | undefined
}

/** Returns figures of this process and machine; `limits` come from the host addon. */
export function memoryFigures(limits: readonly MemoryLimit[] = []): MemoryFigures {
  return { limits, shm: sharedMemory() }
}

function sharedMemory(): MemoryFigures['shm'] {
  try {
    const { bsize, blocks, bavail } = statfsSync('/dev/shm')
    return { total: bsize * blocks, free: bsize * bavail }
  } catch {
    return undefined
  }
}

/** Checks memory, and the limits of this process on it. */
export function memorySection(files: SystemFiles, figures: MemoryFigures = memoryFigures()): Section {
  const checks = [
    memory(files, figures),
    shm(figures),
    addressSpace(files),
    memlock(files),
    openFiles(files),
    hugePages(files),
    reservedPages(files),
    ptrace(files),
  ]
  return { title: 'Memory and limits', checks }
}

function memory(files: SystemFiles, { limits }: MemoryFigures): Check {
  const info = files.text('/proc/meminfo') ?? ''
  const bytes = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(info)?.[1] ?? 0) * 1024
  const total = bytes('MemTotal')
  const available = bytes('MemAvailable')
  const groups = limits.filter(({ bytes }) => bytes < total)
  const texts = groups.length === 0 ? ['no control group limits it'] : groups.map(({ text }) => text)
  const found = [`${formatSize(total)}, ${formatSize(available)} available`, ...texts].join('; ')
  const facts = { totalBytes: total, availableBytes: available, limits: groups }
  if (groups.every((group) => group.available >= LITTLE_MEMORY)) return ok('memory', found, facts)
  const remedy =
    'checkpoints, rings and their page cache count there: docker run --memory; Kubernetes: resources.limits.memory; systemd: MemoryMax'
  return warn('memory', found, remedy, facts)
}

function shm({ shm: found }: MemoryFigures): Check {
  const remedy =
    'mount it, or give the container more: docker run --ipc=host or --shm-size=64g; Kubernetes: an emptyDir with medium Memory'
  if (found === undefined || found.total === 0) return required(missing('shm', '/dev/shm does not exist', remedy))
  const text = `/dev/shm: ${formatSize(found.total)}, ${formatSize(found.free)} free`
  const facts = { totalBytes: found.total, freeBytes: found.free }
  return required(
    found.total < SMALL_SHM || found.free < SMALL_SHM / 4 ? warn('shm', text, remedy, facts) : ok('shm', text, facts),
  )
}

/** Returns soft and hard limit of a row of /proc/self/limits; Infinity for `unlimited`. */
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

/** RLIMIT_AS: Node and CUDA reserve far more addresses than they use memory. */
function addressSpace(files: SystemFiles): Check {
  const limit = limitOf(files, 'Max address space')?.soft ?? Infinity
  const found = limit === Infinity ? 'unlimited' : formatSize(limit)
  const facts = { bytes: limit === Infinity ? null : limit }
  if (limit === Infinity) return ok('address-space', found, facts)
  return warn('address-space', found, 'mapping checkpoints and rings fails above it: ulimit -v unlimited', facts)
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

/** Pages reserved for hugetlbfs: ckpt uses none of them, and their memory is not available to others. */
function reservedPages(files: SystemFiles): Check {
  const info = files.text('/proc/meminfo') ?? ''
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(info)?.[1] ?? 0)
  const [total, free, size] = [field('HugePages_Total'), field('HugePages_Free'), field('Hugepagesize') * 1024]
  if (total === 0) return ok('hugetlb', 'no pages are reserved', { total, free, pageBytes: size })
  const found = `${total} pages of ${formatSize(size)} are reserved, ${free} of them unused`
  const facts = { total, free, pageBytes: size }
  if (free * size < GIB) return ok('hugetlb', found, facts)
  const remedy = 'ckpt uses transparent huge pages instead: sysctl vm.nr_hugepages=0, or the number that other programs need'
  return warn('hugetlb', found, remedy, facts)
}

function ptrace(files: SystemFiles): Check {
  const scope = files.text('/proc/sys/kernel/yama/ptrace_scope')
  const found =
    scope === undefined || scope === '0' ? 'ptrace is not restricted' : `yama ptrace_scope ${scope}; rings do not depend on it`
  return ok('ptrace', found, { yamaScope: scope === undefined ? null : Number(scope) })
}
