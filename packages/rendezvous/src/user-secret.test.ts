import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  lchownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'

import { fetchPublished } from './fetch.ts'
import { joinRendezvous } from './join.ts'
import { startCoordinator } from './coordinator/host.ts'
import { failure } from './testing/cluster.ts'
import { userSecret } from './user-secret.ts'

describe('the secret of this machine’s user', () => {
  const user = process.geteuid!()
  let base: string
  let roots: string[]
  let first: string
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'ckpt-secret-'))
    roots = ['first', 'second'].map((name) => join(base, name))
    for (const path of roots) {
      mkdirSync(path)
      chmodSync(path, 0o1777)
    }
    first = join(roots[0]!, `ckpt-user-${user}`)
    return () => {
      spawnSync('umount', [roots[0]!])
      rmSync(base, { recursive: true })
    }
  })

  it('is made once, for this user alone', () => {
    const secret = userSecret(roots)
    expect(secret).toMatch(/^[\w+/]{43}=$/)
    expect(userSecret(roots)).toBe(secret)
    expect(readdirSync(first)).toEqual(['secret'])
    expect(statSync(first).mode & 0o777).toBe(0o700)
    expect(statSync(join(first, 'secret')).mode & 0o777).toBe(0o600)
    expect(readdirSync(roots[1]!)).toEqual([])
  })

  /** Obstacles at the first place; false if this process may not create them. */
  const obstacles: [string, () => boolean][] = [
    ['a directory that can be read by others', () => (mkdirSync(first), chmodSync(first, 0o755), true)],
    ['a link of this user', () => (mkdirSync(`${first}-real`, { mode: 0o700 }), symlinkSync(`${first}-real`, first), true)],
    ['a link to nowhere', () => (symlinkSync('/nowhere', first), true)],
    ['a link to itself', () => (symlinkSync(first, first), true)],
    ['a file', () => (writeFileSync(first, 'guess', { mode: 0o600 }), true)],
    ['a directory of another user', () => (mkdirSync(first, { mode: 0o700 }), given(first))],
    [
      'a link of another user to a directory of this one',
      () => (mkdirSync(`${first}-real`, { mode: 0o700 }), symlinkSync(`${first}-real`, first), given(first)),
    ],
    ['no directory', () => (rmSync(roots[0]!, { recursive: true }), true)],
    ['a place that others may change', () => (chmodSync(roots[0]!, 0o777), given(roots[0]!))],
    [
      'a read-only file system',
      () => spawnSync('mount', ['-t', 'tmpfs', '-o', 'ro,mode=1777,size=64k', 'tmpfs', roots[0]!]).status === 0,
    ],
    [
      'a full file system',
      () => spawnSync('mount', ['-t', 'tmpfs', '-o', 'mode=1777,nr_inodes=1', 'tmpfs', roots[0]!]).status === 0,
    ],
    [
      'a secret that is a link',
      () => (mkdirSync(first, { mode: 0o700 }), symlinkSync('/etc/hostname', join(first, 'secret')), true),
    ],
    [
      'a secret that was cut short',
      () => (mkdirSync(first, { mode: 0o700 }), writeFileSync(join(first, 'secret'), 'ab', { mode: 0o600 }), true),
    ],
    [
      'a secret that others can read',
      () => (mkdirSync(first, { mode: 0o700 }), writeFileSync(join(first, 'secret'), 'x'.repeat(44), { mode: 0o644 }), true),
    ],
  ]
  const given = (path: string): boolean => {
    if (user === 0) lchownSync(path, 65_534, 65_534)
    return user === 0
  }

  it.for(obstacles)('is made at the next place where the first has %s, and is the same for all', ([_, make], { skip }) => {
    if (!make()) return skip('only root can give files away and mount')
    const secret = userSecret(roots)
    expect(secret).toMatch(/^[\w+/]{43}=$/)
    expect(existsSync(join(roots[1]!, `ckpt-user-${user}`, 'secret'))).toBe(true)
    expect(userSecret(roots)).toBe(secret)
    expect(() => userSecret(roots.slice(0, 1))).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        fields: { field: 'token' },
        message: expect.stringContaining(first) as string,
      }),
    )
  })

  it('stays what it is when an earlier place becomes usable', () => {
    symlinkSync('/nowhere', first)
    const secret = userSecret(roots)
    rmSync(first)
    expect(userSecret(roots)).toBe(secret)
  })
})

it('ranks that meet on the loopback interface without a secret turn away who has not got their user’s', async () => {
  const coordinator = await startCoordinator({ address: 'tcp://127.0.0.1:0', worldSize: 2 })
  onTestFinished(() => coordinator.close())
  const options = { worldSize: 2, address: coordinator.address, standalone: true, timeoutMs: 5000 }
  const stranger = { ...options, rank: 1 }
  for (const made of [{ insecure: true }, { token: 'of another user' }]) {
    expect(await failure(joinRendezvous({ ...stranger, ...made }))).toMatchObject({
      code: 'RENDEZVOUS_REJECTED',
      fields: { field: 'token' },
    })
    expect(await failure(fetchPublished('metas', { ...options, ...made }))).toMatchObject({ code: 'RENDEZVOUS_REJECTED' })
  }
  const ranks = await Promise.all([0, 1].map((rank) => joinRendezvous({ ...options, rank })))
  ranks[0]!.publish('metas', new Uint8Array([7]))
  await Promise.all(ranks.map((rank) => rank.barrier('published')))
  expect([...(await fetchPublished('metas', options))!]).toEqual([7])
  await Promise.all(ranks.map((rank) => rank.close()))
})
