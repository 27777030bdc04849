import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { CkptError } from '@ckpt/contract'
import { z } from 'zod'
import { shapeBytes, type Shape } from './shapes.ts'

const SCRIPT = fileURLToPath(new URL('./generate_checkpoint.py', import.meta.url))
const SHM = '/dev/shm'
const TIMEOUT_MS = 300_000
/** Memory that registering the checkpoint takes there too, and some reserve. */
const SHM_FACTOR = 3.2

const writtenSchema = z.object({ tensors: z.int().positive(), bytes: z.int().positive() })

/** A checkpoint on disk that a real engine can load. */
export interface EngineCheckpoint {
  readonly directory: string
  readonly files: readonly string[]
  readonly tensors: number
  readonly bytes: number
}

/** Two checkpoints of one shape whose tensors all differ; removed when disposed of, or when the process exits. */
export interface EngineCheckpoints extends Disposable {
  readonly A: EngineCheckpoint
  readonly B: EngineCheckpoint
}

export interface CheckpointsOptions {
  /** Interpreter with torch, safetensors and transformers. */
  readonly python: string
  readonly shape: Shape
  /** Makes weights on this number of GPUs, side by side; 0 for the CPU. */
  readonly gpus: number
  /** Directory for the files (default: /dev/shm if they fit, otherwise the directory for temporary files). */
  readonly within?: string
}

/** @throws CkptError `NATIVE_FAILURE` with Python's output. */
export async function makeCheckpoints({ python, shape, gpus, within }: CheckpointsOptions): Promise<EngineCheckpoints> {
  const parent = within ?? defaultDirectory(shapeBytes(shape))
  mkdirSync(parent, { recursive: true })
  const root = mkdtempSync(join(parent, 'ckpt-bench-'))
  const remove = () => rmSync(root, { recursive: true, force: true })
  process.on('exit', remove)
  const dispose = () => {
    process.off('exit', remove)
    remove()
  }
  try {
    const file = join(root, 'shape.json')
    writeFileSync(file, JSON.stringify(shape))
    const make = async (name: string, seed: number): Promise<EngineCheckpoint> => {
      const directory = join(root, name)
      const gpu = gpus === 0 ? -1 : seed % gpus
      const written = await generate(python, [file, directory, String(seed), String(gpu)])
      return { directory, files: safetensorsIn(directory), ...written }
    }
    const [A, B] = await Promise.all([make('A', 1), make('B', 2)])
    return { A, B, [Symbol.dispose]: dispose }
  } catch (error) {
    dispose()
    throw error
  }
}

async function generate(python: string, args: readonly string[]): Promise<z.infer<typeof writtenSchema>> {
  try {
    const env = { ...process.env, HF_HUB_OFFLINE: '1', TRANSFORMERS_OFFLINE: '1' }
    const { stdout } = await promisify(execFile)(python, [SCRIPT, ...args], { timeout: TIMEOUT_MS, env })
    return writtenSchema.parse(JSON.parse(stdout.trim().split('\n').at(-1)!))
  } catch (error) {
    throw CkptError.from(error, 'NATIVE_FAILURE', `generating a checkpoint with ${python}`)
  }
}

function safetensorsIn(directory: string): string[] {
  const names = readdirSync(directory).filter((name) => name.endsWith('.safetensors'))
  return names.sort().map((name) => join(directory, name))
}

function defaultDirectory(bytes: number): string {
  const { bavail, bsize } = statfsSync(SHM)
  return bavail * bsize > bytes * SHM_FACTOR ? SHM : tmpdir()
}
