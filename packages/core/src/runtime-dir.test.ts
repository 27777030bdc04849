import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { RuntimeDir } from './runtime-dir.ts'

it('is the user’s alone, goes on close, and takes along what dead processes left', () => {
  const root = mkdtempSync(join(tmpdir(), 'runtime-dir-test-'))
  try {
    const { pid: dead } = spawnSync('true')
    const stale = join(root, `ckpt-${dead}-abcdef`)
    const running = join(root, `ckpt-${process.ppid}-abcdef`)
    const foreign = join(root, `other-${dead}-abcdef`)
    for (const path of [stale, running, foreign]) mkdirSync(path)
    const directory = new RuntimeDir(root)
    expect(statSync(directory.path).mode & 0o777).toBe(0o700)
    expect([stale, running, foreign].map((path) => existsSync(path))).toEqual([false, true, true])
    directory.close()
    expect(existsSync(directory.path)).toBe(false)
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
})
