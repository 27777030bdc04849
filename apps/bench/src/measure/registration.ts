import { statSync } from 'node:fs'
import { cpus } from 'node:os'
import type { Host } from '@ckpt/contract'
import { ParameterServer } from '@ckpt/core'
import type { RegistrationRun } from '../result.ts'
import { summarize } from '../statistics.ts'
import { readCeiling } from './ceilings.ts'

/**
 * Registration of warm files on one rank, against plain reads of the same files into warm memory: once into the shared pool, as a
 * trainer does that registers step after step, once into memory that is the system's anew for every registration.
 */
export async function measureRegistration(host: Host, paths: readonly string[], repeat: number): Promise<RegistrationRun> {
  const files = paths.map((path) => ({ path, bytes: statSync(path).size }))
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0)
  const limitMs = (bytes / (await readCeiling(host, files))) * 1000
  await using server = await ParameterServer.create({ rank: 0, worldSize: 1, threads: cpus().length })
  const register = async (pool: 'shared' | 'private') => {
    const started = performance.now()
    await server.registerCheckpoint('bench', { files: paths }, { pool })
    const elapsed = performance.now() - started
    server.unregisterCheckpoint('bench')
    return elapsed
  }
  await register('shared') // the pool's first registration gets its memory
  const shared: number[] = []
  const fresh: number[] = []
  for (let i = 0; i < repeat; i++) shared.push(await register('shared'))
  server.releasePool()
  for (let i = 0; i < repeat; i++) fresh.push(await register('private'))
  const registerMs = summarize(shared)
  const freshMs = summarize(fresh)
  return {
    bytes,
    registerMs,
    freshMs,
    limitMs,
    ofCeiling: limitMs / registerMs.median,
    freshOfCeiling: limitMs / freshMs.median,
  }
}
