import { closeSync, openSync, readFileSync, readSync, rmSync, statfsSync, truncateSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { readIndex } from '@ckpt/safetensors'
import type { Fault } from './fault.ts'
import { CHECKPOINT } from './fault-cluster.ts'

const FILLER = '/dev/shm/fault-campaign-filler'

/** Fills /dev/shm except for `left` bytes; the returned function undoes this. */
async function fillSharedMemory(left: number): Promise<() => void> {
  const { bavail, bsize } = statfsSync('/dev/shm')
  const file = await open(FILLER, 'w')
  try {
    const block = Buffer.alloc(2 ** 20, 1)
    for (let rest = bavail * bsize - left; rest > 0; rest -= block.length) {
      await file.write(block, 0, Math.min(rest, block.length))
    }
  } catch (error) {
    // Other processes also use it.
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
  } finally {
    await file.close()
  }
  return () => rmSync(FILLER, { force: true })
}

/** Inverts one byte of every tensor of the campaign's checkpoint; a second call restores it. */
async function flip(directory: string): Promise<void> {
  for (const header of (await readIndex(directory)).headers) {
    const fd = openSync(header.file, 'r+')
    try {
      const byte = Buffer.alloc(1)
      for (const { begin, end } of header.tensors) {
        if (begin === end) continue
        readSync(fd, byte, 0, 1, header.dataStart + begin)
        byte[0]! ^= 0xff
        writeSync(fd, byte, 0, 1, header.dataStart + begin)
      }
    } finally {
      closeSync(fd)
    }
  }
}

/**
 * Faults of memory that is shared by name. They need a separate /dev/shm (see sandbox.ts): otherwise they would affect others,
 * whose actions would look like leaks.
 */
export const MEMORY_FAULTS: readonly Fault[] = [
  {
    name: 'no room for rings',
    points: ['begin', 'plan'],
    // A direct one needs no ring.
    strategies: ['broadcast', 'p2p'],
    victims: 'any',
    expect: 'fails',
    codes: ['OUT_OF_MEMORY'],
    names: /\/dev\/shm/,
    within: 'window',
    lost: 'nobody',
    inject: () => fillSharedMemory(64 * 1024),
  },
  {
    name: 'file in place changes',
    points: ['begin'],
    victims: 'any',
    expect: 'fails',
    codes: ['MEMORY_CHANGED', 'DIGEST_MISMATCH'],
    names: /digest of \S+|\S+ has digest|\.safetensors/,
    within: 'window',
    lost: 'nobody',
    async prepare({ cluster, victim }) {
      await inPlace(cluster.ranks[victim]!, () => cluster.register(victim, true))
      return async () => {
        await inPlace(cluster.ranks[victim]!, () => cluster.register(victim))
      }
    },
    async inject({ cluster }) {
      const { directory } = cluster.options.checkpoint
      await flip(directory)
      return () => flip(directory)
    },
  },
  {
    // A process that touches missing pages reads zeros, and reports it. Others may notice the digest first, and reads over TCP
    // an error.
    name: 'file in place shrinks',
    points: ['begin', 'h2d'],
    strategies: ['broadcast', 'p2p'],
    victims: 'member',
    expect: 'fails',
    codes: ['MEMORY_CHANGED', 'DIGEST_MISMATCH'],
    pullCodes: ['PEER_LOST'],
    names: /\.safetensors|digest of \S+|rank \d/,
    within: 'window',
    lost: 'nobody',
    async prepare({ cluster, victim }) {
      await inPlace(cluster.ranks[victim]!, () => cluster.register(victim, true))
      return async () => {
        const { process } = cluster.ranks[victim]!
        if (process.child.exitCode !== null || process.child.signalCode !== null) return
        await inPlace(cluster.ranks[victim]!, () => cluster.register(victim))
      }
    },
    async inject({ cluster }) {
      const { files } = cluster.options.checkpoint
      const contents = files.map((file) => readFileSync(file))
      for (const file of files) truncateSync(file, 4096)
      return () => files.forEach((file, index) => rewrite(file, contents[index]!))
    },
  },
]

/** The same file, so that mappings of it see the bytes again. */
function rewrite(file: string, bytes: Buffer): void {
  const fd = openSync(file, 'r+')
  try {
    for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at, bytes.length - at, at)
  } finally {
    closeSync(fd)
  }
}

async function inPlace(
  rank: { call(name: 'unregister', argument: { name: string }): Promise<void> },
  register: () => Promise<void>,
): Promise<void> {
  await rank.call('unregister', { name: CHECKPOINT })
  await register()
}
