import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'

import { fetchPublished } from './fetch.ts'
import { joinRendezvous } from './join.ts'
import { startCoordinator } from './coordinator/host.ts'
import { failure } from './testing/cluster.ts'
import { userSecret } from './user-secret.ts'

describe('the secret of this machine’s user', () => {
  let directory: string
  beforeEach(() => {
    const root = mkdtempSync(join(tmpdir(), 'ckpt-secret-'))
    directory = join(root, 'user')
    return () => rmSync(root, { recursive: true })
  })

  it('is made once, for this user alone', () => {
    const secret = userSecret(directory)
    expect(secret).toMatch(/^[\w+/]{43}=$/)
    expect(userSecret(directory)).toBe(secret)
    expect(readdirSync(directory)).toEqual(['secret'])
    expect(statSync(directory).mode & 0o777).toBe(0o700)
    expect(statSync(join(directory, 'secret')).mode & 0o777).toBe(0o600)
  })

  it.each([
    ['can be read by others', () => (mkdirSync(directory), chmodSync(directory, 0o755))],
    [
      'is a link',
      () => (mkdirSync(`${directory}-of-others`, { mode: 0o700 }), symlinkSync(`${directory}-of-others`, directory)),
    ],
  ])('is not taken from a directory that %s', (_, make) => {
    make()
    expect(() => userSecret(directory)).toThrow(/CKPT_TOKEN/)
  })

  it('is not taken from another user’s directory', ({ skip }) => {
    if (process.geteuid?.() !== 0) skip('only root can give a directory away')
    mkdirSync(directory, { mode: 0o700 })
    chownSync(directory, 65_534, 65_534)
    expect(() => userSecret(directory)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: { field: 'token' } }),
    )
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
