import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { engineKey } from './engine-key.ts'
import { checkSecret, readSecretFile, userSecretFile } from './secrets.ts'

const NOBODY = 65_534
const KEY = 'a key of this test'
const root = process.geteuid?.() === 0

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-secrets-'))
  return () => rmSync(directory, { recursive: true })
})

describe('a file of a secret', () => {
  const write =
    (text: string, mode = 0o600) =>
    (path: string) => {
      writeFileSync(path, text)
      chmodSync(path, mode)
    }
  it.each<[string, (path: string) => void, RegExp]>([
    ['is not there', () => undefined, /cannot be read/],
    ['others may read', write(KEY, 0o644), /can be read by others/],
    ['a group may write', write(KEY, 0o620), /can be read by others/],
    ['is empty', write(' \n'), /is empty/],
    ['can be guessed', write('fifteen letters'), /15 characters/],
    ['is long', write('x'.repeat(5000)), /5000 bytes/],
    ['is a directory', (path) => mkdirSync(path), /is not a file/],
    ['is a pipe that nobody writes to', (path) => execFileSync('mkfifo', ['-m', '600', path]), /is not a file/],
  ])('is refused by name where it %s', (_, make, why) => {
    const path = join(directory, 'secret')
    make(path)
    const fields = { field: 'CKPT_X_FILE', file: path }
    const refused = expect.objectContaining({
      code: 'INVALID_ARGUMENT',
      fields: expect.objectContaining(fields) as unknown,
    }) as unknown
    expect(() => readSecretFile(path, 'CKPT_X_FILE')).toThrow(refused)
    expect(() => readSecretFile(path, 'CKPT_X_FILE')).toThrow(why)
  })

  it('is refused where another user owns it, and followed through a link to where its own user does', ({ skip }) => {
    const path = join(directory, 'secret')
    write(`${KEY}\n`)(path)
    symlinkSync(path, join(directory, 'link'))
    expect(readSecretFile(join(directory, 'link'), 'x')).toBe(KEY)
    if (!root) skip('only root can give a file away')
    chownSync(path, NOBODY, NOBODY)
    expect(() => readSecretFile(path, 'x')).toThrow(/belongs to user 65534/)
    expect(() => readSecretFile(join(directory, 'link'), 'x')).toThrow(/belongs to user 65534/)
  })

  it('of root may be readable by a group of this process, with a warning, and by no other', async ({ skip }) => {
    if (!root) skip('only root can make such a file')
    const path = join(directory, 'secret')
    write(KEY)(path)
    chmodSync(directory, 0o755)
    chownSync(path, 0, NOBODY)
    chmodSync(path, 0o440)
    expect(() => readSecretFile(path, 'x')).toThrow(/can be read by others/)
    const groups = process.getgroups!()
    process.setgroups!([NOBODY])
    onTestFinished(() => process.setgroups!(groups))
    const warned = once(process, 'warning')
    expect(readSecretFile(path, 'x')).toBe(KEY)
    expect(await warned).toMatchObject([
      { message: `x: ${path} can be read by group ${NOBODY}, as secrets of Kubernetes with an fsGroup can` },
    ])
    for (const mode of [0o460, 0o444, 0o450]) {
      chmodSync(path, mode)
      expect(() => readSecretFile(path, 'x')).toThrow(/can be read by others/)
    }
  })

  it('is of at least 16 characters', () => {
    expect(() => checkSecret('x'.repeat(15), 'token')).toThrow(/token: 15 characters/)
    expect(checkSecret('x'.repeat(16), 'token')).toBe('x'.repeat(16))
  })
})

describe('a secret of this machine’s user', () => {
  it('is the same for all that need it, and only they may read it', () => {
    const user = join(directory, 'user')
    const made = userSecretFile('engine-key', 'CKPT_X_FILE', user)
    expect(made).toMatch(/^[\w+/]{43}=$/)
    expect(userSecretFile('engine-key', 'CKPT_X_FILE', user)).toBe(made)
    expect(readdirSync(user)).toEqual(['engine-key'])
    expect(statSync(user).mode & 0o777).toBe(0o700)
    expect(statSync(join(user, 'engine-key')).mode & 0o777).toBe(0o600)
  })

  it.each<[string, (path: string) => void]>([
    ['others may enter', (path) => (mkdirSync(path), chmodSync(path, 0o755))],
    ['is a link', (path) => (mkdirSync(`${path}-of-others`, { mode: 0o700 }), symlinkSync(`${path}-of-others`, path))],
    ['is a file', (path) => writeFileSync(path, '')],
    ['another user owns', (path) => (mkdirSync(path, { mode: 0o700 }), root && chownSync(path, NOBODY, NOBODY))],
  ])('is not taken from a directory that %s', (what, make) => {
    const user = join(directory, 'user')
    make(user)
    if (what === 'another user owns' && !root) return
    expect(() => userSecretFile('engine-key', 'CKPT_X_FILE', user)).toThrow(/set CKPT_X_FILE/)
  })
})

describe('an engine’s key', () => {
  it('is the one that was given, the variable’s, the file’s, or the user’s, and missing only by name', async () => {
    const file = join(directory, 'key')
    writeFileSync(file, `${KEY} in a file`, { mode: 0o600 })
    const env = { CKPT_ENGINE_KEY: `${KEY} in a variable`, CKPT_ENGINE_KEY_FILE: file }
    expect(engineKey(KEY, env)).toBe(KEY)
    expect(engineKey(false, env)).toBeUndefined()
    expect(engineKey(undefined, env)).toBe(`${KEY} in a variable`)
    expect(engineKey(undefined, { CKPT_ENGINE_KEY_FILE: file })).toBe(`${KEY} in a file`)
    expect(engineKey(undefined, { CKPT_ENGINE_KEY: 'off', CKPT_ENGINE_KEY_FILE: file })).toBeUndefined()
    for (const value of ['0', 'false', 'none', 'OFF', 'a short key']) {
      expect(() => engineKey(undefined, { CKPT_ENGINE_KEY: value })).toThrow(/CKPT_ENGINE_KEY/)
      expect(() => engineKey(value)).toThrow(/engineKey/)
    }
    const own = engineKey(undefined, {})
    expect(own).toBe(engineKey(undefined, { CKPT_ENGINE_KEY: '', CKPT_ENGINE_KEY_FILE: '' }))
    // The worker package finds the same one.
    const python = new URL('../../python/src', import.meta.url).pathname
    // Only this module: the whole package would import torch.
    const program = `import sys, types
package = types.ModuleType("ckpt_worker"); package.__path__ = [sys.argv[1] + "/ckpt_worker"]; sys.modules["ckpt_worker"] = package
import ckpt_worker.protocol.engine_key as k; print(k.engine_key())`
    const venv = new URL('../../../.venv/bin/python', import.meta.url).pathname
    if (!existsSync(venv)) return
    const found = await promisify(execFile)(venv, ['-c', program, python], { env: {} })
    expect(found.stdout.trim()).toBe(own)
  })
})
