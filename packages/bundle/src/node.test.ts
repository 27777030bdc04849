import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { copyNode } from './node.ts'

it('takes no Node but the one whose SHA-256 is known', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-node-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  const binary = join(directory, 'other')
  writeFileSync(binary, readFileSync(process.execPath))
  expect(() => copyNode(join(directory, 'node'), true, { binary, license: binary })).toThrow(
    /other has SHA-256 [\da-f]{64}, not that of Node 24/,
  )
  expect(existsSync(join(directory, 'node'))).toBe(false)
})
