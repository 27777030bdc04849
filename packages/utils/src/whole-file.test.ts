import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { writeWholeFile } from './whole-file.ts'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-whole-'))
})
afterEach(() => {
  rmSync(directory, { recursive: true, force: true })
})

async function refusal(path: string): Promise<CkptError> {
  const error: unknown = await writeWholeFile(path, 'text').catch((thrown: unknown) => thrown)
  if (!CkptError.is(error)) throw new Error(`not a CkptError: ${String(error)}`)
  return error
}

describe('a file that is written whole', () => {
  it('has its text and its owner alone, whatever was there, and leaves nothing else', async () => {
    const texts = fc.tuple(fc.option(fc.string({ maxLength: 5000 })), fc.string({ maxLength: 5000 }), fc.boolean())
    await fc.assert(
      fc.asyncProperty(texts, async ([before, text, linked]) => {
        const file = join(directory, 'file')
        rmSync(file, { force: true })
        if (before !== null) writeFileSync(file, before, { mode: 0o644 })
        const link = join(directory, 'link')
        rmSync(link, { force: true })
        symlinkSync(file, link)
        await writeWholeFile(linked && before !== null ? link : file, text)
        expect(readFileSync(file, 'utf8')).toBe(text)
        expect(statSync(file).mode & 0o777).toBe(0o600)
        expect(readdirSync(directory).sort()).toEqual(['file', 'link'])
      }),
      { numRuns: 50 },
    )
  })

  it('is refused by its name where it cannot be', async () => {
    mkdirSync(join(directory, 'folder'))
    writeFileSync(join(directory, 'file'), 'x')
    symlinkSync('loop', join(directory, 'loop'))
    for (const path of ['folder', 'missing/file', 'file/below', 'loop', 'a\0b', 'n'.repeat(300)].map((name) =>
      join(directory, name),
    )) {
      const error = await refusal(path)
      expect(error).toMatchObject({ code: 'NATIVE_FAILURE', fields: { file: path } })
      expect(error.message).toContain(`cannot write ${path}`)
    }
    expect(readdirSync(directory).sort()).toEqual(['file', 'folder', 'loop'])
  })

  it('never takes the place of a device', async () => {
    const device = '/dev/null'
    expect((await refusal(device)).message).toContain('not a regular file')
    expect(statSync(device).isCharacterDevice()).toBe(true)
  })

  it('keeps what was there, and leaves nothing, on a full disk', (context) => {
    const program = `
      const { writeWholeFile } = await import(${JSON.stringify(new URL('whole-file.ts', import.meta.url).href)})
      const { readFileSync, readdirSync } = await import('node:fs')
      const path = ${JSON.stringify(join(directory, 'metas'))}
      await writeWholeFile(path, 'before')
      const error = await writeWholeFile(path, 'x'.repeat(1 << 20)).catch((thrown) => thrown)
      console.log(JSON.stringify([error.code, error.message, readFileSync(path, 'utf8'), readdirSync(${JSON.stringify(directory)})]))`
    const tsx = import.meta.resolve('tsx')
    const inside = ['mount -t tmpfs -o size=64k tmpfs "$0"', 'exec "$@"'].join(' && ')
    const node = [process.execPath, '--import', tsx, '--conditions=@ckpt/source', '--input-type=module', '-e', program]
    const { status, stdout, stderr } = spawnSync('unshare', ['-m', '--', 'sh', '-c', inside, directory, ...node], {
      encoding: 'utf8',
    })
    if (/unshare|mount:|permitted/.test(stderr)) context.skip(`no file system can be mounted here: ${stderr.trim()}`)
    expect(stderr).toBe('')
    expect(status).toBe(0)
    expect(JSON.parse(stdout)).toEqual([
      'NATIVE_FAILURE',
      expect.stringMatching(/metas: ENOSPC: no space left/),
      'before',
      ['metas'],
    ])
  })
})
