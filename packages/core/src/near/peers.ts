import { readlinkSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { refuseServiceLinks, type CallOptions } from '@ckpt/contract'
import { bootId, createHost, probeCuda } from '@ckpt/transport'
import { DEFAULT_TIMEOUT_MS, joinRanks } from '../join-ranks.ts'
import { variablesRead, type ParameterServerOptions } from '../options.ts'
import { Nearness, type Whereabouts } from './nearness.ts'

/** Where one rank runs, as its kernel reports it. Numbers of namespaces mean something only within one boot. */
export interface PeerFacts {
  readonly rank: number
  readonly host: string
  /** Id of the kernel's boot: the same for all containers of one machine; empty if it is not reported. */
  readonly boot: string
  /** Device and inode of /dev/shm; null if there is none. */
  readonly shm: string | null
  /** Namespaces: IPC, mount and PID; null if /proc does not show them. */
  readonly ipc: string | null
  readonly mount: string | null
  readonly pid: string | null
  readonly user: number
  /** UUIDs of the GPUs that it sees. */
  readonly gpus: readonly string[]
}

/** Where all ranks run, and which of them share memory. */
export interface Peers {
  readonly rank: number
  /** Ascending by rank. */
  readonly facts: readonly PeerFacts[]
  /** Ranks of one group have proved to each other that they read each other's memory. */
  readonly groups: ReadonlyMap<number, number>
}

/**
 * Joins the other ranks, and finds out what each pair shares: all ranks call it. Nothing is registered and no engine is called.
 *
 * @throws CkptError as {@link ParameterServer.create} does for joining
 */
export async function examinePeers(options: ParameterServerOptions = {}, call: CallOptions = {}): Promise<Peers> {
  refuseServiceLinks(process.env, variablesRead(options))
  const rendezvous = await joinRanks(options, call)
  const nearness = new Nearness(createHost())
  const wait = {
    timeoutMs: call.timeoutMs ?? options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
    ...(call.signal && { signal: call.signal }),
  }
  try {
    const { rank } = rendezvous
    const own = { facts: await ownFacts(rank), near: await nearness.whereabouts() }
    const all = await rendezvous.allGather<{ facts: PeerFacts; near: Whereabouts }>('peers', own, wait)
    const located = all.map(({ facts, near }) => ({ rank: facts.rank, near }))
    const groups = await nearness.groups(located, rank, (key, value) => rendezvous.allGather(key, value, wait))
    return { rank, facts: all.map(({ facts }) => facts), groups }
  } finally {
    await nearness.close()
    await rendezvous.close()
  }
}

async function ownFacts(rank: number): Promise<PeerFacts> {
  const { devices } = await probeCuda().catch(() => ({ devices: [] }))
  return {
    rank,
    host: hostname(),
    boot: bootId(),
    shm: sharedMemory(),
    ipc: namespaceOf('ipc'),
    mount: namespaceOf('mnt'),
    pid: namespaceOf('pid'),
    user: process.geteuid?.() ?? -1,
    gpus: devices.map(({ uuid }) => uuid),
  }
}

function sharedMemory(): string | null {
  const found = statSync('/dev/shm', { bigint: true, throwIfNoEntry: false })
  return found === undefined ? null : `${found.dev}:${found.ino}`
}

function namespaceOf(kind: 'ipc' | 'mnt' | 'pid'): string | null {
  try {
    return readlinkSync(`/proc/self/ns/${kind}`)
  } catch {
    return null
  }
}
