import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { byVersion, Versions } from './versions.ts'

let directory: string
beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'ckpt-versions-test-'))))
afterEach(() => rmSync(directory, { recursive: true }))

const settled = { settleMs: 0 }

/** A safetensors file with one tensor. */
function file(tensor: string): Buffer {
  const header = Buffer.from(JSON.stringify({ [tensor]: { dtype: 'U8', shape: [16], data_offsets: [0, 16] } }))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([length, header, Buffer.alloc(16)])
}

/** Makes a version with an index of two shards, of which some are written. */
function sharded(name: string, written: readonly string[]): string {
  const path = join(directory, name)
  mkdirSync(path)
  const weight_map = { a: 'model-1.safetensors', b: 'model-2.safetensors' }
  writeFileSync(join(path, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map }))
  for (const tensor of written) writeFileSync(join(path, weight_map[tensor as 'a' | 'b']), file(tensor))
  return path
}

it('versions with an index are complete once all of its files are whole', async () => {
  const versions = new Versions(directory, { settleMs: 1e9 })
  const path = sharded('step-1', ['a'])
  expect(await versions.complete()).toEqual([])
  expect(versions.incomplete()).toMatchObject({
    name: 'step-1',
    reason: expect.stringContaining('model-2.safetensors') as string,
  })
  writeFileSync(join(path, 'model-2.safetensors'), file('b'))
  truncateSync(join(path, 'model-2.safetensors'), 80)
  expect(await versions.complete()).toEqual([])
  writeFileSync(join(path, 'model-2.safetensors'), file('b'))
  expect(await versions.complete()).toEqual(['step-1'])
  expect(versions.incomplete()).toBeUndefined()
})

it('versions without an index are complete once their files no longer change', async () => {
  const path = join(directory, 'step-1')
  mkdirSync(path)
  const unsettled = new Versions(directory, { settleMs: 1e9 })
  const versions = new Versions(directory, settled)
  expect(await versions.complete()).toEqual([])
  writeFileSync(join(path, 'model.safetensors'), file('a').subarray(0, 70))
  expect(await versions.complete()).toEqual([])
  writeFileSync(join(path, 'model.safetensors'), file('a'))
  expect(await versions.complete()).toEqual(['step-1'])
  expect(await unsettled.complete()).toEqual([])
  expect(unsettled.incomplete()?.reason).toContain('just changed')
})

it('a ready file completes a version, if one is expected', async () => {
  const versions = new Versions(directory, { ...settled, readyFile: 'DONE' })
  const path = sharded('step-1', ['a', 'b'])
  expect(await versions.complete()).toEqual([])
  writeFileSync(join(path, 'DONE'), '')
  expect(await versions.complete()).toEqual(['step-1'])
})

it('versions are ordered by their numbers, and older ones are left out', async () => {
  for (const name of ['step-10', 'step-9', 'step-100']) sharded(name, ['a', 'b'])
  sharded('.step-101', ['a', 'b'])
  writeFileSync(join(directory, 'step-102'), 'a file')
  const versions = new Versions(directory, settled)
  expect(await versions.complete()).toEqual(['step-9', 'step-10', 'step-100'])
  expect(await versions.complete('step-9')).toEqual(['step-10', 'step-100'])
  renameSync(join(directory, '.step-101'), join(directory, 'step-101'))
  symlinkSync('step-101', join(directory, 'step-103'))
  expect(await versions.complete('step-100')).toEqual(['step-101', 'step-103'])
  rmSync(join(directory, 'step-101'), { recursive: true })
  expect(await versions.complete('step-100')).toEqual([])
})

it('names that are equal as numbers still have an order', () => {
  expect(byVersion('step-01', 'step-1')).not.toBe(0)
  expect(byVersion('step-01', 'step-1')).toBe(-byVersion('step-1', 'step-01'))
})
