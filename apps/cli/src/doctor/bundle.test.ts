import { createHash } from 'node:crypto'
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { bundleSection, checkBundle } from './bundle.ts'

const FILES = [
  'lib/ckpt.mjs',
  'lib/chunk-a.mjs',
  'lib/node_modules/z/index.cjs',
  'lib/node_modules/a/host.node',
  'LICENSE',
  'python/p.py',
]

describe('a bundle', () => {
  let root: string
  const script = () => join(root, 'lib/ckpt.mjs')
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'ckpt-bundle-'))
    const files: Record<string, { bytes: number; sha256: string }> = {}
    for (const file of FILES) {
      const content = Buffer.from(`the content of ${file}`)
      mkdirSync(dirname(join(root, file)), { recursive: true })
      writeFileSync(join(root, file), content)
      files[file] = { bytes: content.length, sha256: createHash('sha256').update(content).digest('hex') }
    }
    writeFileSync(join(root, 'MANIFEST.json'), JSON.stringify({ name: 'ckpt', version: '1', commit: null, files }))
    return () => rmSync(root, { recursive: true })
  })

  it('starts when it is whole, whatever lies beside its files; and what is no bundle starts too', () => {
    writeFileSync(join(root, 'lib/more.mjs'), 'x')
    expect(() => checkBundle(script())).not.toThrow()
    rmSync(join(root, 'MANIFEST.json'))
    expect(() => checkBundle(script())).not.toThrow()
  })

  it.each(FILES)('does not start when %s is short, long or missing', (file) => {
    const path = join(root, file)
    const refused = expect.objectContaining({
      code: 'INVALID_STATE',
      message: expect.stringContaining(file) as string,
    }) as Error
    appendFileSync(path, 'x')
    expect(() => checkBundle(script())).toThrow(refused)
    truncateSync(path, 3)
    expect(() => checkBundle(script())).toThrow(refused)
    if (file === 'lib/ckpt.mjs') return // what is started is there
    rmSync(path)
    expect(() => checkBundle(script())).toThrow(refused)
  })

  it.each(FILES)('with any byte of %s changed is refused, at the start where it is run, by the doctor always', async (file) => {
    const path = join(root, file)
    const whole = readFileSync(path)
    for (let at = 0; at < whole.length; at++) {
      const changed = Buffer.from(whole)
      changed[at]! ^= 1 << (at % 8)
      writeFileSync(path, changed)
      if (file.startsWith('lib/')) expect(() => checkBundle(script())).toThrow(/is damaged/)
      const [check] = (await bundleSection(root)).checks
      expect(check!.facts).toMatchObject({ damaged: [file] })
    }
  })
})
