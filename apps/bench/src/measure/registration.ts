import { statSync } from 'node:fs'
import { cpus } from 'node:os'
import type { Host } from '@ckpt/contract'
import { ParameterServer } from '@ckpt/core'
import type { RegistrationRun } from '../result.ts'
import { summarize } from '../statistics.ts'
import { readProbe } from './ceilings.ts'

/**
 * Measures registration of warm files on one rank, each compared with a plain read of the same files into warm memory right
 * before it: once into the shared pool, like a trainer that registers step after step, once into memory that is new from the
 * system for every registration.
 */
export async function measureRegistration(host: Host, paths: readonly string[], repeat: number): Promise<RegistrationRun> {
  const files = paths.map((path) => ({ path, bytes: statSync(path).size }))
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0)
  using ceiling = await readProbe(host, files)
  await using server = await ParameterServer.create({ rank: 0, worldSize: 1, threads: cpus().length })
  const limits: number[] = []
  const register = async (pool: 'shared' | 'private') => {
    const limitMs = (bytes / (await ceiling.read())) * 1000
    const started = performance.now()
    await server.registerCheckpoint('bench', { files: paths }, { pool })
    const elapsed = performance.now() - started
    await server.unregisterCheckpoint('bench')
    limits.push(limitMs)
    return { elapsed, ofCeiling: limitMs / elapsed }
  }
  const several = async (pool: 'shared' | 'private') => {
    const all = []
    for (let i = 0; i < repeat; i++) all.push(await register(pool))
    return { ms: summarize(all.map(({ elapsed }) => elapsed)), ofCeiling: summarize(all.map((one) => one.ofCeiling)).median }
  }
  await register('shared') // the pool's first registration gets its memory
  const shared = await several('shared')
  await server.releasePool()
  const fresh = await several('private')
  return {
    bytes,
    registerMs: shared.ms,
    freshMs: fresh.ms,
    limitMs: summarize(limits).median,
    ofCeiling: shared.ofCeiling,
    freshOfCeiling: fresh.ofCeiling,
  }
}
