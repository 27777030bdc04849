import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { describe, expect, it, onTestFinished } from 'vitest'

import { rendezvousOptionsFromEnv } from './env.ts'

describe('rendezvousOptionsFromEnv', () => {
  it('is a world of one without variables', () => {
    expect(rendezvousOptionsFromEnv({})).toEqual({ rank: 0, worldSize: 1, address: 'tcp://127.0.0.1:29500' })
    expect(rendezvousOptionsFromEnv({ RANK: '0' })).toMatchObject({ rank: 0, worldSize: 1 })
  })

  it('reads what launchers set', () => {
    const env = {
      RANK: '3',
      WORLD_SIZE: '8',
      MASTER_ADDR: 'node-1.cluster',
      MASTER_PORT: '1234',
      CKPT_TOKEN: 'a secret of this test',
    }
    expect(rendezvousOptionsFromEnv(env)).toEqual({
      rank: 3,
      worldSize: 8,
      address: 'tcp://node-1.cluster:1234',
      token: 'a secret of this test',
    })
    expect(rendezvousOptionsFromEnv({ CKPT_INSECURE: '1' })).toMatchObject({ insecure: true })
    expect(rendezvousOptionsFromEnv({ ...env, MASTER_ADDR: 'fd00::1' }).address).toBe('tcp://[fd00::1]:1234')
  })

  it.each([
    ['RANK', { RANK: 'x', WORLD_SIZE: '2' }],
    ['RANK', { RANK: '-1', WORLD_SIZE: '2' }],
    ['RANK', { RANK: '', WORLD_SIZE: '2' }],
    ['RANK', { RANK: '2', WORLD_SIZE: '2' }],
    ['RANK', { WORLD_SIZE: '2' }],
    ['WORLD_SIZE', { RANK: '1' }],
    ['WORLD_SIZE', { RANK: '0', WORLD_SIZE: '0' }],
    ['WORLD_SIZE', { RANK: '0', WORLD_SIZE: '1.5' }],
    ['MASTER_PORT', { MASTER_PORT: '0' }],
    ['MASTER_PORT', { MASTER_PORT: '65536' }],
    ['MASTER_ADDR', { MASTER_ADDR: '' }],
    ['MASTER_ADDR', { MASTER_ADDR: 'a b' }],
    ['CKPT_TOKEN', { CKPT_TOKEN: '' }],
    ['CKPT_TOKEN', { CKPT_TOKEN: 'fifteen letters' }],
    ['CKPT_INSECURE', { CKPT_INSECURE: 'yes' }],
    ['CKPT_TOKEN_FILE', { CKPT_TOKEN: 'a', CKPT_TOKEN_FILE: 'b' }],
    ['CKPT_TOKEN_FILE', { CKPT_TOKEN_FILE: '/does/not/exist' }],
    ['CKPT_TOKEN_FILE', { CKPT_TOKEN_FILE: '/' }],
  ])('names %s when it is broken: %o', (field, env) => {
    expect(() => rendezvousOptionsFromEnv(env)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: expect.objectContaining({ field }) }),
    )
  })

  it('takes a token from a file only its owner can read', () => {
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-env-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const file = join(directory, 'token')
    writeFileSync(file, 'a secret of this test\n', { mode: 0o600 })
    expect(rendezvousOptionsFromEnv({ CKPT_TOKEN_FILE: file }).token).toBe('a secret of this test')
    chmodSync(file, 0o640)
    expect(() => rendezvousOptionsFromEnv({ CKPT_TOKEN_FILE: file })).toThrow(/CKPT_TOKEN_FILE.*0600/)
    writeFileSync(file, ' \n')
    chmodSync(file, 0o600)
    expect(() => rendezvousOptionsFromEnv({ CKPT_TOKEN_FILE: file })).toThrow(/empty/)
  })
})
