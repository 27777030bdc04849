import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { CkptError } from '@ckpt/contract'
import { z } from 'zod'
import type { Gpus } from '../result.ts'

const BYTES = 2 * 2 ** 30
const ROUNDS = 8

const rates = z.object({
  bytesPerSecond: z.number().positive(),
  eachBytesPerSecond: z.array(z.number()),
  names: z.array(z.string()),
  versions: z.record(z.string(), z.string()),
})

/**
 * Measures the rate at which pinned host memory reaches the first `gpus` GPUs when all of their links are busy: the best of
 * several rounds of plain copies by torch, which ckpt's own path does not use.
 *
 * @throws CkptError `NATIVE_FAILURE` with Python's output.
 */
export async function measureH2d(python: string, gpus: number): Promise<Gpus> {
  const script = fileURLToPath(new URL('./h2d.py', import.meta.url))
  try {
    const { stdout } = await promisify(execFile)(python, [script, String(gpus), String(BYTES), String(ROUNDS)], {
      timeout: 120_000,
    })
    const { bytesPerSecond, eachBytesPerSecond, names, versions } = rates.parse(JSON.parse(stdout))
    return { names, versions, h2dBytesPerSecond: bytesPerSecond, h2dEachBytesPerSecond: eachBytesPerSecond }
  } catch (error) {
    throw CkptError.from(error, 'NATIVE_FAILURE', `measuring the host links of ${gpus} GPUs`)
  }
}
