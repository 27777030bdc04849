import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { tensorAt } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { controlEngine } from '@ckpt/worker-link'
import { readMetas } from './metas-file.ts'
import { memoryLimits } from './options.ts'
import { ParameterServer } from './parameter-server.ts'

const TENSORS = {
  'a.weight': { dtype: 'F32', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) },
  'b.bias': { dtype: 'U8', shape: [3], data: Uint8Array.of(5, 6, 7) },
} as const

describe('a parameter server of one rank', () => {
  let server: ParameterServer
  let directory: string
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'parameter-server-test-'))
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
  })
  afterEach(async () => {
    await server.close()
    rmSync(directory, { recursive: true, force: true })
  })

  it('gathers what it registered, and the same manifest again while nothing changed', async () => {
    await server.registerCheckpoint('one', { tensors: TENSORS })
    const manifest = await server.gatherMetas('one')
    expect(manifest.ranks).toHaveLength(1)
    const { tensors } = manifest.ranks[0]!
    expect([0, 1].map((index) => tensorAt(tensors, index).name).sort()).toEqual(['a.weight', 'b.bias'])
    expect(await server.gatherMetas('one')).toBe(manifest)
    const withDigests = await server.gatherMetas('one', { digests: true })
    expect(withDigests.ranks[0]!.tensors.digests).toHaveLength(2)
    expect(withDigests.digest).not.toBe(manifest.digest)
  })

  it('notices that a checkpoint was registered anew under its name', async () => {
    await server.registerCheckpoint('one', { tensors: TENSORS })
    const before = await server.gatherMetas('one', { digests: true })
    await server.unregisterCheckpoint('one')
    await server.registerCheckpoint('one', {
      tensors: { ...TENSORS, 'b.bias': { ...TENSORS['b.bias'], data: Uint8Array.of(5, 6, 8) } },
    })
    expect((await server.gatherMetas('one', { digests: true })).digest).not.toBe(before.digest)
  })

  it('has an unregistered checkpoint’s name at once, and its memory when the host says so', async () => {
    await server.registerCheckpoint('one', { tensors: TENSORS })
    let back!: () => void
    const memory = new Promise<void>((resolve) => (back = resolve))
    server.device.host.settled = () => memory
    let resolved = false
    const unregistered = server.unregisterCheckpoint('one').then(() => (resolved = true))
    await expect(server.unregisterCheckpoint('one')).rejects.toMatchObject({ code: 'CHECKPOINT_UNKNOWN' })
    await server.registerCheckpoint('one', { tensors: TENSORS })
    expect(resolved).toBe(false)
    back()
    await unregistered
    await server.releasePool()
  })

  it('saves metas that another one loads, and refuses changed files by field', async () => {
    await server.registerCheckpoint('one', { tensors: TENSORS })
    const manifest = await server.gatherMetas('one')
    const path = join(directory, 'metas.json')
    await server.saveMetas('one', path)
    expect((await readMetas(path)).manifest.digest).toBe(manifest.digest)
    const other = await ParameterServer.create({ rank: 0, worldSize: 1 })
    try {
      expect((await other.loadMetas(path)).digest).toBe(manifest.digest)
      expect(other.getMetas('one').ranks[0]!.tensors.names.at(0)).toBe(manifest.ranks[0]!.tensors.names.at(0))
    } finally {
      await other.close()
    }
    const content = JSON.parse(readFileSync(path, 'utf8')) as { version: number; digest: string; ranks: { metas: string }[] }
    for (const [changed, field] of [
      [{ ...content, version: 2 }, 'version'],
      [{ ...content, digest: 'x' }, 'digest'],
    ] as const) {
      writeFileSync(path, JSON.stringify(changed))
      await expect(readMetas(path)).rejects.toMatchObject({ code: 'METAS_MALFORMED', fields: { file: path, field } })
    }
    writeFileSync(path, '{')
    await expect(readMetas(path)).rejects.toMatchObject({ code: 'METAS_MALFORMED' })
  })

  it('says what is wrong with a call', async () => {
    expect(() => server.getMetas('none')).toThrow(expect.objectContaining({ code: 'CHECKPOINT_UNKNOWN' }) as Error)
    await server.registerCheckpoint('one', { tensors: TENSORS })
    await expect(server.registerCheckpoint('one', { tensors: TENSORS })).rejects.toMatchObject({ code: 'CHECKPOINT_EXISTS' })
    const engine = controlEngine({ socket: join(directory, 'no-engine.sock') })
    await expect(server.update('none', { engine })).rejects.toMatchObject({ code: 'CHECKPOINT_UNKNOWN' })
    await expect(server.update('one', { engine, timeoutMs: 200 })).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' })
    const slow = server.update('one', { engine, timeoutMs: 400 }).catch((error: unknown) => error)
    await expect(server.update('one', { engine })).rejects.toMatchObject({ code: 'INVALID_STATE' })
    await slow
    await expect(server.update('one', { engine, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
    await server.close()
    await expect(server.registerCheckpoint('two', { tensors: TENSORS })).rejects.toMatchObject({ code: 'INVALID_STATE' })
  })

  it('stops a waiting update when it is closed', async () => {
    await server.registerCheckpoint('one', { tensors: TENSORS })
    const engine = controlEngine({ socket: join(directory, 'no-engine.sock') })
    const update = server.update('one', { engine, timeoutMs: 60_000 }).catch((error: unknown) => error)
    await new Promise((resolve) => setTimeout(resolve, 100))
    await server.close()
    expect(await update).toMatchObject({ code: 'ABORTED' })
  })
})

describe('limits from the environment', () => {
  it('are absent, or right, or an error that names the variable', () => {
    expect(memoryLimits({})).toEqual({})
    expect(memoryLimits({ PS_MAX_BUCKET_SIZE_GB: '0.5', PS_MEM_FRACTION: '0.9' })).toEqual({
      bucketBytes: 2 ** 29,
      fraction: 0.9,
    })
    for (const [field, value] of [
      ['PS_MAX_BUCKET_SIZE_GB', 'much'],
      ['PS_MAX_BUCKET_SIZE_GB', '0'],
      ['PS_MEM_FRACTION', '1.5'],
    ] as const) {
      expect(() => memoryLimits({ [field]: value })).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: { field } }) as Error,
      )
    }
  })
})
