import type { PeerFacts, Peers } from '@ckpt/core'
import { describe, expect, it } from 'vitest'
import { peerNotes, renderPeers, sharingOf } from './peers.ts'

const rank = (number: number, more: Partial<PeerFacts> = {}): PeerFacts => ({
  rank: number,
  host: 'node',
  boot: 'b0000000-0',
  shm: '20:1',
  ipc: 'ipc:[1]',
  mount: 'mnt:[1]',
  pid: 'pid:[1]',
  user: 0,
  gpus: [],
  ...more,
})
const peers = (facts: readonly PeerFacts[], groups: readonly number[]): Peers => ({
  rank: 0,
  facts,
  groups: new Map(groups.map((group, index) => [index, group])),
})

describe('ckpt doctor --peers', () => {
  it('tells containers of one machine from machines of one name', () => {
    const found = peers([rank(0), rank(1, { shm: '21:1' }), rank(2, { boot: 'other' })], [0, 1, 2])
    const [a, b, c] = found.facts as [PeerFacts, PeerFacts, PeerFacts]
    expect([sharingOf(found, a, b), sharingOf(found, a, c)]).toEqual(['machine', 'none'])
    const notes = peerNotes(found)
    expect(notes.find(({ ranks }) => ranks[1] === 1)).toMatchObject({
      ranks: [0, 1],
      found: expect.stringContaining('different /dev/shm (20:1, 21:1)') as unknown,
      remedy: expect.stringContaining('medium: Memory') as unknown,
    })
    expect(notes.find(({ ranks }) => ranks[1] === 2)?.found).toContain('different machines')
  })

  it('names users that differ, and PID namespaces where memory is shared', () => {
    const [users] = peerNotes(peers([rank(0), rank(1, { user: 7 })], [0, 1]))
    expect(users!.found).toContain('different users (0, 7)')
    const [pids] = peerNotes(peers([rank(0), rank(1, { pid: 'pid:[2]' })], [0, 0]))
    expect(pids!.remedy).toContain('shareProcessNamespace')
    expect(peerNotes(peers([rank(0), rank(1)], [0, 0]))).toEqual([])
  })

  it('prints one row and one column a rank', () => {
    const gpus = ['GPU-0123456789ab']
    const text = renderPeers(peers([rank(0, { gpus }), rank(1, { gpus }), rank(2, { boot: '' })], [0, 0, 1]))
    expect(text).toContain('  0  ·           memory+gpu  none')
    expect(text).toContain('  2  none        none        ·')
  })
})
