import { execFileSync } from 'node:child_process'
import { link, mkdir, mkdtemp, rename, rm, symlink, writeFile as writeBytes } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { foreignKind } from './foreign.ts'
import { openFilesWindow } from './open-files-limit.ts'
import { OpenedCheckpoint } from './opened-checkpoint.ts'
import { readHeader } from './read.ts'
import { readIndex } from './shards.ts'
import { writeFile } from './write.ts'

let directory: string
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ckpt-directories-'))
})
afterEach(() => rm(directory, { recursive: true, force: true }))

const at = (name: string) => join(directory, name)
const tensors = (...names: string[]) =>
  names.map((name) => ({ name, dtype: 'U8' as const, shape: [1], data: Buffer.from([7]) }))
const one = 'model-00001-of-00002.safetensors'
const two = 'model-00002-of-00002.safetensors'
const INDEX = 'model.safetensors.index.json'

async function outcome(path = directory): Promise<string[] | CkptError> {
  try {
    return (await readIndex(path)).headers.flatMap((header) => header.tensors.map(({ name }) => name)).sort()
  } catch (error) {
    if (CkptError.is(error)) return error
    throw error
  }
}

describe('what lies in a directory', () => {
  beforeEach(async () => {
    await writeFile(at(one), tensors('a', 'b'))
    await writeFile(at(two), tensors('c'))
  })

  it.each<[string, () => Promise<unknown>]>([
    ['files of macOS', () => writeBytes(at(`._${one}`), Buffer.from([0, 5, 0x16, 7, 0, 2, 0, 0]))],
    ['hidden temporary files', () => writeFile(at(`.tmp-${one}`), tensors('a'))],
    ['a hidden index', () => writeBytes(at(`._${INDEX}`), Buffer.from([0, 5, 0x16, 7]))],
    ['temporary files', () => writeFile(at(`${one}.tmp`), tensors('a'))],
    ['an ending in upper case', () => writeFile(at('other.SAFETENSORS'), tensors('a'))],
    ['a directory', () => mkdir(at('folder'))],
  ])('leaves out what does not belong to the checkpoint: %s', async (_, add) => {
    await add()
    expect(await outcome()).toEqual(['a', 'b', 'c'])
  })

  it.each<[string, string | Buffer]>([
    ['a byte order mark', `\ufeff{"weight_map":{"a":"${one}","b":"${one}","c":"${two}"}}`],
    ['numbers that only Python has', `{"metadata":{"x":[NaN,Infinity,-Infinity]},"weight_map":{"a":"${one}","c":"${two}"}}`],
    ['keys of its own', `{"weight_map":{"a":"${one}","c":"${two}"},"format":null,"total":1e400}`],
  ])('takes an index with %s', async (_, text) => {
    await writeBytes(at(INDEX), text)
    expect(await outcome()).toEqual(['a', 'b', 'c'])
  })

  it('takes shards in directories beneath the index', async () => {
    await mkdir(at('sub/deeper'), { recursive: true })
    await rename(at(two), at(`sub/deeper/${two}`))
    await writeBytes(at(INDEX), JSON.stringify({ weight_map: { a: one, c: `sub/deeper/${two}` } }))
    expect(await outcome()).toEqual(['a', 'b', 'c'])
    await writeBytes(at(INDEX), JSON.stringify({ weight_map: { a: one, c: two } }))
    expect(await outcome()).toMatchObject({ code: 'CHECKPOINT_UNREADABLE', fields: { file: at(two) } })
  })

  it('follows the links of a download cache, and names one that leads nowhere', async () => {
    await mkdir(at('blobs'))
    await mkdir(at('snapshots/abc'), { recursive: true })
    for (const [name, blob] of [
      [one, 'f1'],
      [two, 'f2'],
    ] as const) {
      await rename(at(name), at(`blobs/${blob}`))
      await symlink(`../../blobs/${blob}`, at(`snapshots/abc/${name}`))
    }
    expect(await outcome(at('snapshots/abc'))).toEqual(['a', 'b', 'c'])
    await rm(at('blobs/f2'))
    const error = await outcome(at('snapshots/abc'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_UNREADABLE', fields: { file: at(`snapshots/abc/${two}`), errno: 2 } })
  })

  it('names both files of a tensor that appears twice: hard links, links and copies', async () => {
    for (const [n, add] of [link, symlink].entries()) {
      await add(at(one), at(`twin-${n}.safetensors`))
      const error = await outcome()
      expect(error).toMatchObject({ code: 'CHECKPOINT_MALFORMED', fields: { tensor: 'a', file: at(`twin-${n}.safetensors`) } })
      expect((error as CkptError).message).toContain(at(one))
      await rm(at(`twin-${n}.safetensors`))
    }
  })

  it('says what is in a directory without safetensors files', async () => {
    await mkdir(at('odd'))
    for (const [name, hint] of [
      ['model.SAFETENSORS', /lower case/],
      ['.model.safetensors', /hidden/],
      ['pytorch_model.bin', /different format/],
    ] as const) {
      await writeBytes(at(`odd/${name}`), 'x')
      const error = await outcome(at('odd'))
      expect(error).toMatchObject({ code: 'CHECKPOINT_UNREADABLE', fields: { file: at('odd') } })
      expect((error as CkptError).message).toMatch(hint)
      await rm(at(`odd/${name}`))
    }
  })
})

describe('a file that is none', () => {
  const POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4976698672\n'
  it.each<[RegExp, string | Buffer]>([
    [/git lfs pull/, POINTER],
    [/web page/, '\n <!DOCTYPE html><html></html>'],
    [/web page/, '<html><body>Repository not found</body></html>'],
    [/GGUF/, Buffer.from('GGUF\x03\0\0\0\0\0\0\0\0\0')],
    [/torch\.save.*save_file/, Buffer.from(`PK\x03\x04${'\0'.repeat(26)}archive/data.pklFB`, 'latin1')],
    [/zip archive/, Buffer.from(`PK\x03\x04${'\0'.repeat(26)}README.md`, 'latin1')],
    [/pickle/, Buffer.from([0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20])],
    [/NumPy/, Buffer.from('\x93NUMPY\x01\0v\0', 'latin1')],
    [/HDF5/, Buffer.from('\x89HDF\r\n\x1a\n', 'latin1')],
    [/AppleDouble/, Buffer.from([0, 5, 0x16, 7, 0, 2, 0, 0, 0x4d])],
    [/JSON/, '{"weight_map":{"a":"b.safetensors"}}'],
    [/zeros/, Buffer.alloc(4096)],
    [/gzip/, Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])],
    [/empty/, ''],
    [/too few/, 'abc'],
  ])('is named for what it is, as a file and as an index: %s', async (says, bytes) => {
    await writeBytes(at('x.safetensors'), bytes)
    const error = await outcome(at('x.safetensors'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_MALFORMED', fields: { file: at('x.safetensors') } })
    expect((error as CkptError).message).toMatch(says)
    expect((error as CkptError).message).not.toMatch(/header of \d+ bytes/)
    if (says.source === 'JSON') return
    await writeBytes(at(INDEX), bytes)
    expect(await outcome(at(INDEX))).toMatchObject({ code: 'CHECKPOINT_MALFORMED', fields: { file: at(INDEX) } })
  })

  it('is never a file that can be read: what is legal is not looked at', async () => {
    // A header of 0x4750 bytes begins like "PG…"; only unreadable files are named.
    await writeFile(at('x.safetensors'), tensors('a'), { metadata: { note: 'x'.repeat(0x4b50) } })
    expect((await readHeader(at('x.safetensors'))).tensors).toHaveLength(1)
    expect(foreignKind(Buffer.from('\x10\0\0\0\0\0\0\0{}', 'latin1'))).toBeUndefined()
  })
})

describe('many shards and few descriptors', () => {
  it('are read a window at a time, and what was opened is closed', async () => {
    const paths: string[] = []
    for (let i = 0; i < 300; i++) {
      paths.push(at(`m-${i}.safetensors`))
      await writeFile(paths[i]!, tensors(`t${i}`))
    }
    const core = fileURLToPath(new URL('opened-checkpoint.ts', import.meta.url))
    const tsx = fileURLToPath(import.meta.resolve('tsx'))
    const program = `
      import { readdirSync } from 'node:fs'
      const { OpenedCheckpoint } = await import(${JSON.stringify(core)})
      const open = () => readdirSync('/proc/self/fd').length
      const before = open()
      const opened = await OpenedCheckpoint.find(${JSON.stringify(directory)})
      const most = open()
      await opened.verify()
      await opened[Symbol.asyncDispose]()
      console.log(JSON.stringify({ headers: opened.headers.length, kept: most - before, left: open() - before }))
    `
    const run = (limit: number) => {
      const command = `ulimit -n ${limit}; exec "$0" --import "$1" --conditions=@ckpt/source --input-type=module -e "$2"`
      const output = execFileSync('bash', ['-c', command, process.execPath, tsx, program], { timeout: 120_000 }).toString()
      return JSON.parse(output) as { headers: number; kept: number; left: number }
    }
    const few = run(64)
    expect(few.headers).toBe(300)
    // The runtime may close some of its own meanwhile.
    expect(few.left).toBeLessThanOrEqual(0)
    expect(few.kept).toBeLessThan(20)
    expect(run(4096).kept).toBeGreaterThan(100)
    expect(openFilesWindow()).toBeGreaterThan(0)
    await using opened = await OpenedCheckpoint.open(paths, { window: 3 })
    expect(opened.files.filter(({ descriptor }) => descriptor !== undefined)).toHaveLength(3)
  })
})
