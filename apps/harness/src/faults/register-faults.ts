import { execFileSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ErrorCode } from '@ckpt/contract'
import { headerFor } from '@ckpt/safetensors'
import type { RankProcess } from '@ckpt/testing'

/** A failure while one rank registers a different checkpoint. */
export interface RegisterFault {
  readonly name: string
  readonly expect: 'fails' | 'succeeds' | 'either'
  readonly codes: readonly ErrorCode[]
  /** True if the error names the file. */
  readonly namesFile: boolean
  /** True if the rank's process does not survive it. */
  readonly kills?: boolean
  /** Reason why it cannot run on this machine. */
  readonly missing?: () => string | undefined
  /** Creates the files in `directory`; the first is the faulty one. */
  arrange(directory: string, rank: RankProcess): Promise<Arranged> | Arranged
}

export interface Arranged {
  readonly file: string
  readonly inPlace?: boolean
  /** Called when bytes have begun to arrive. */
  readonly during?: () => void
  readonly undo?: () => void
}

const MIB = 2 ** 20
const GIB = 2 ** 30

/** Creates a safetensors file of `bytes` bytes of data in tensors of 16 MiB, all zero and without disk space. */
export function sparseFile(path: string, bytes: number): string {
  const rows = Math.min(bytes, 16 * MIB)
  const tensors = Array.from({ length: Math.ceil(bytes / rows) }, (_, i) => ({
    name: `t.${i}`,
    dtype: 'U8' as const,
    shape: [rows],
  }))
  const { header, dataBytes } = headerFor(tensors)
  const fd = openSync(path, 'w')
  try {
    writeSync(fd, header)
  } finally {
    closeSync(fd)
  }
  truncateSync(path, header.length + dataBytes)
  return path
}

const limits = (pid: number, resource: string) =>
  execFileSync('prlimit', ['--pid', String(pid), '--noheadings', '--output=SOFT,HARD', `--${resource}`])
    .toString()
    .trim()
    .split(/\s+/)
const setLimit = (pid: number, resource: string, soft: string) =>
  execFileSync('prlimit', ['--pid', String(pid), `--${resource}=${soft}:`])

const noPrlimit = () => command('prlimit')

/** Returns the reason why a command cannot be used. */
export function command(name: string): string | undefined {
  try {
    execFileSync('sh', ['-c', `command -v ${name}`], { stdio: 'ignore' })
    return undefined
  } catch {
    return `${name} is not installed`
  }
}

function bad(name: string, make: (file: string) => void, codes: readonly ErrorCode[]): RegisterFault {
  return {
    name,
    expect: 'fails',
    codes,
    namesFile: true,
    arrange(directory) {
      const file = join(directory, 'model.safetensors')
      make(file)
      return { file }
    },
  }
}

function during(name: string, expect: 'fails' | 'either', happen: (file: string) => void): RegisterFault {
  return {
    name,
    expect,
    codes: ['CHECKPOINT_CHANGED', 'CHECKPOINT_UNREADABLE', 'CHECKPOINT_MALFORMED'],
    namesFile: true,
    arrange(directory) {
      // Large enough to last longer than the interval of progress reports.
      const file = sparseFile(join(directory, 'model.safetensors'), 512 * MIB)
      return { file, during: () => happen(file) }
    },
  }
}

/** A fault of the rank's process when bytes have begun to arrive. */
function meanwhile(name: string, happen: (rank: RankProcess) => void, outcome: Partial<RegisterFault>): RegisterFault {
  return {
    name,
    expect: 'succeeds',
    codes: [],
    namesFile: false,
    ...outcome,
    arrange(directory, rank) {
      return { file: sparseFile(join(directory, 'model.safetensors'), 512 * MIB), during: () => happen(rank) }
    },
  }
}

const PAUSE_MS = 300

export const REGISTER_FAULTS: readonly RegisterFault[] = [
  meanwhile('rank killed', ({ process }) => process.child.kill('SIGKILL'), { expect: 'fails', kills: true }),
  meanwhile(
    'rank paused',
    ({ process: { child } }) => {
      child.kill('SIGSTOP')
      setTimeout(() => child.kill('SIGCONT'), PAUSE_MS)
    },
    {},
  ),
  bad('file missing', () => undefined, ['CHECKPOINT_UNREADABLE']),
  bad('file empty', (file) => writeFileSync(file, ''), ['CHECKPOINT_MALFORMED']),
  bad('file is a directory', (file) => mkdirSync(file), ['CHECKPOINT_UNREADABLE']),
  bad('file is a pipe', (file) => execFileSync('mkfifo', [file]), ['CHECKPOINT_UNREADABLE']),
  bad('file truncated', (file) => truncateSync(sparseFile(file, MIB), MIB), ['CHECKPOINT_MALFORMED']),
  bad('file has a tail', (file) => truncateSync(sparseFile(file, MIB), 2 * MIB), ['CHECKPOINT_MALFORMED']),
  bad(
    'header damaged',
    (file) => {
      const fd = openSync(sparseFile(file, MIB), 'r+')
      writeSync(fd, '}', 20)
      closeSync(fd)
    },
    ['CHECKPOINT_MALFORMED'],
  ),
  during('file shrinks', 'fails', (file) => truncateSync(file, MIB)),
  during('file removed', 'either', (file) => rmSync(file)),
  during('file rewritten', 'either', (file) => void sparseFile(file, 512 * MIB)),
  {
    name: 'disk read error',
    expect: 'fails',
    codes: ['CHECKPOINT_UNREADABLE'],
    namesFile: true,
    missing: () => command('mkfs.ext4') ?? command('mount'),
    arrange: brokenDisk,
  },
  {
    name: 'more than there is memory',
    expect: 'fails',
    codes: ['OUT_OF_MEMORY'],
    namesFile: false,
    arrange: (directory) => ({ file: sparseFile(join(directory, 'model.safetensors'), 512 * GIB) }),
  },
  {
    name: 'no address space',
    expect: 'fails',
    codes: ['OUT_OF_MEMORY'],
    namesFile: false,
    missing: noPrlimit,
    arrange(directory, rank) {
      const file = sparseFile(join(directory, 'model.safetensors'), 4 * GIB)
      const pid = rank.process.child.pid!
      const [soft] = limits(pid, 'as')
      // Space for the process itself to continue.
      setLimit(pid, 'as', String(sizeOf(pid) + GIB))
      return { file, undo: () => setLimit(pid, 'as', soft!) }
    },
  },
  {
    name: 'memory cannot be locked',
    expect: 'succeeds',
    codes: [],
    namesFile: false,
    missing: noPrlimit,
    arrange(directory, rank) {
      // The hard limit is unchanged, because it could not be raised again.
      const pid = rank.process.child.pid!
      const [soft, hard] = limits(pid, 'memlock')
      setLimit(pid, 'memlock', '0')
      const file = sparseFile(join(directory, 'model.safetensors'), (hard === 'unlimited' ? 16 * MIB : Number(hard)) + 16 * MIB)
      return { file, undo: () => setLimit(pid, 'memlock', soft!) }
    },
  },
]

function sizeOf(pid: number): number {
  const [pages] = execFileSync('cat', [`/proc/${pid}/statm`])
    .toString()
    .split(' ')
  return Number(pages) * 4096
}

/** A file on a disk whose second half cannot be read: a file system whose device is truncated under it. */
function brokenDisk(directory: string): Arranged {
  const image = join(directory, 'disk.img')
  const mounted = join(directory, 'disk')
  const sh = (text: string) => execFileSync('sh', ['-ec', text], { stdio: ['ignore', 'ignore', 'pipe'] })
  mkdirSync(mounted)
  sh(`truncate -s 40M ${image}; mkfs.ext4 -q -O ^has_journal ${image}; mount -o loop ${image} ${mounted}`)
  try {
    const file = sparseFile(join(mounted, 'model.safetensors'), 24 * MIB)
    // Bytes that are really on the disk.
    sh(
      `h=$(stat -c %s ${file}); dd if=/dev/zero of=${file} bs=1M seek=1 count=20 conv=notrunc status=none; truncate -s $h ${file}`,
    )
    sh(`umount ${mounted}; mount -o loop,ro ${image} ${mounted}; head -c 4096 ${file} >/dev/null; truncate -s 16M ${image}`)
    return { file, undo: () => sh(`umount ${mounted}`) }
  } catch (error) {
    sh(`umount ${mounted} || true`)
    throw error
  }
}

/** Creates an empty directory for one trial, and a function that removes it. */
export function scratch(): { directory: string; remove: () => void } {
  const directory = join(tmpdir(), `fault-${process.pid}`)
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory)
  return { directory, remove: () => rmSync(directory, { recursive: true, force: true }) }
}
