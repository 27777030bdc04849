import { statSync } from 'node:fs'
import { cpus } from 'node:os'
import type { Host } from '@ckpt/contract'
import { ParameterServer } from '@ckpt/core'
import type { RegistrationRun } from '../result.ts'
import { summarize } from '../statistics.ts'
import { readCeiling } from './ceilings.ts'

/**
 * Registration of warm files on one rank, against plain reads of the same files into warm memory. Memory is the system's anew for
 * every registration: what is timed includes getting it.
 */
export async function measureRegistration(host: Host, paths: readonly string[], repeat: number): Promise<RegistrationRun> {
  const files = paths.map((path) => ({ path, bytes: statSync(path).size }))
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0)
  const limitMs = (bytes / (await readCeiling(host, files))) * 1000
  await using server = await ParameterServer.create({ rank: 0, worldSize: 1, threads: cpus().length })
  const samples: number[] = []
  for (let i = 0; i < repeat; i++) {
    const started = performance.now()
    await server.registerCheckpoint('bench', { files: paths })
    samples.push(performance.now() - started)
    server.unregisterCheckpoint('bench')
  }
  const registerMs = summarize(samples)
  return { bytes, registerMs, limitMs, ofCeiling: limitMs / registerMs.median }
}
