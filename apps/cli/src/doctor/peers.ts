import type { PeerFacts, Peers } from '@ckpt/core'

/**
 * What two ranks share. `memory`: /dev/shm, as they have proved. `machine`: the same kernel, but not that. `none`: they are on
 * different machines.
 */
export type Sharing = 'memory' | 'machine' | 'none'

/** Why two ranks that share a machine do not share something, and what to mount. */
export interface PeerNote {
  readonly ranks: readonly [number, number]
  readonly found: string
  readonly remedy: string
}

/** Returns what two ranks share. */
export function sharingOf({ groups }: Peers, a: PeerFacts, b: PeerFacts): Sharing {
  if (a.rank === b.rank || groups.get(a.rank) === groups.get(b.rank)) return 'memory'
  return a.boot !== '' && a.boot === b.boot ? 'machine' : 'none'
}

/**
 * Returns the problems of ranks on one machine, each between two ranks. Ranks that differ from another in the same way have one
 * note, with the first such rank.
 */
export function peerNotes(peers: Peers): PeerNote[] {
  const notes: PeerNote[] = []
  const told = new Set<string>()
  const tell = (a: PeerFacts, b: PeerFacts, found: string, remedy: string) => {
    const key = `${b.rank} ${remedy}`
    if (!told.has(key)) notes.push({ ranks: [a.rank, b.rank], found, remedy })
    told.add(key)
  }
  peers.facts.forEach((b, index) => {
    for (const a of peers.facts.slice(0, index)) {
      const sharing = sharingOf(peers, a, b)
      if (sharing === 'machine') tell(a, b, ...apart(a, b))
      if (sharing === 'memory' && a.pid !== b.pid) {
        const remedy =
          'register files in place, or share PIDs: docker run --pid=host or --pid=container:NAME; Kubernetes: shareProcessNamespace: true in one pod'
        tell(a, b, 'different PID namespaces: neither can map anonymous memory of the other (shareMemory)', remedy)
      }
      if (sharing === 'none' && a.host === b.host)
        tell(a, b, `both are called ${a.host}, and are different machines`, 'nothing: names are not compared')
    }
  })
  return notes
}

const MOUNT =
  'mount one /dev/shm in both: docker run --ipc=host or --ipc=container:NAME; Kubernetes: one emptyDir with medium: Memory at /dev/shm in one pod, or hostIPC with a hostPath volume of /dev/shm'

function apart(a: PeerFacts, b: PeerFacts): [found: string, remedy: string] {
  if (a.shm === null || b.shm === null) return [`rank ${a.shm === null ? a.rank : b.rank} has no /dev/shm`, MOUNT]
  if (a.shm !== b.shm) return [`one machine, but different /dev/shm (${a.shm}, ${b.shm})`, MOUNT]
  if (a.user !== b.user)
    return [`one /dev/shm, but different users (${a.user}, ${b.user})`, 'run both ranks as the same user (runAsUser)']
  return ['one /dev/shm, but neither could open the memory of the other', 'make /dev/shm writable, and leave space in it']
}

/** Returns the findings as text: the ranks, the matrix, remedies. */
export function renderPeers(peers: Peers): string {
  const { facts } = peers
  const table = (rows: readonly (readonly string[])[]): string => {
    const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
    return rows.map((row) => `  ${row.map((cell, column) => cell.padEnd(widths[column]!)).join('  ').trimEnd()}\n`).join('') // prettier-ignore
  }
  const short = (text: string | null) => text?.replace(/^\w+:\[(\d+)\]$/, '$1') ?? '-'
  const ranks = [
    ['rank', 'host', 'boot', '/dev/shm', 'ipc', 'mount', 'pid', 'user', 'gpus'],
    ...facts.map(({ rank, host, boot, shm, ipc, mount, pid, user, gpus }) => [
      String(rank),
      host,
      boot.slice(0, 8) || '-',
      shm ?? '-',
      short(ipc),
      short(mount),
      short(pid),
      String(user),
      gpus.map((uuid) => uuid.slice(0, 12)).join(' ') || '-',
    ]),
  ]
  const cell = (a: PeerFacts, b: PeerFacts) => {
    const common = a.rank !== b.rank && sharingOf(peers, a, b) !== 'none' && a.gpus.some((uuid) => b.gpus.includes(uuid))
    return a.rank === b.rank ? '·' : `${sharingOf(peers, a, b)}${common ? '+gpu' : ''}`
  }
  const matrix = [
    ['', ...facts.map(({ rank }) => String(rank))],
    ...facts.map((a) => [String(a.rank), ...facts.map((b) => cell(a, b))]),
  ]
  const notes = peerNotes(peers).map(({ ranks: [a, b], found, remedy }) => `  ranks ${a} and ${b}: ${found}\n    → ${remedy}\n`)
  const legend =
    'memory: they map each other’s rings. machine: one kernel, but no common /dev/shm; none: different machines; both pull over the network'
  return `Ranks\n${table(ranks)}\nShared\n${table(matrix)}\n${legend.replaceAll('’', "'")}\n${notes.length > 0 ? `\n${notes.join('')}` : ''}`
}

/** Returns the findings as JSON. */
export function renderPeersJson(peers: Peers): string {
  const pairs = peers.facts.flatMap((a, index) =>
    peers.facts.slice(index + 1).map((b) => ({ ranks: [a.rank, b.rank], shared: sharingOf(peers, a, b) })),
  )
  return `${JSON.stringify({ schema: 1, ranks: peers.facts, pairs, notes: peerNotes(peers) }, null, 2)}\n`
}
