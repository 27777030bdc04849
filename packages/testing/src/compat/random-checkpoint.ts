import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { tensorBytes, type DType } from '@ckpt/contract'
import { writeFile } from '@ckpt/safetensors'
import { Random } from '../random.ts'

/** Dtypes of both torch and Python's safetensors package. */
const DTYPES: readonly DType[] = ['BF16', 'F16', 'F32', 'F64', 'F8_E4M3', 'F8_E5M2', 'BOOL', 'U8', 'I8', 'I16', 'I32', 'I64']

export interface RandomCheckpoint extends Disposable {
  readonly directory: string
  readonly files: readonly string[]
  readonly bytes: number
  readonly tensors: number
}

/**
 * Writes safetensors files with tensors of random dtypes, shapes and bytes, including scalars and empty ones: about `bytes` in
 * all. The same `seed` gives the same names, dtypes and shapes; bytes are new each time.
 */
export async function randomCheckpoint(seed: number, bytes: number, files = 3): Promise<RandomCheckpoint> {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-random-'))
  const random = new Random(seed)
  const whole = (below: number) => random.between(0, below - 1)
  const shards = Array.from({ length: files }, () => [] as { name: string; dtype: DType; shape: number[]; data: Uint8Array }[])
  let total = 0
  let count = 0
  while (total < bytes) {
    const dtype = DTYPES[whole(DTYPES.length)]!
    const dimensions = whole(5)
    const side = Math.max(1, Math.round((1 + random.next() * 2 ** 20) ** (1 / Math.max(1, dimensions))))
    const shape = Array.from({ length: dimensions }, () => 1 + whole(side))
    if (count % 23 === 5) shape.push(0)
    const size = tensorBytes(dtype, shape)
    const data = randomBytes(size)
    // A byte other than 0 or 1 is not a boolean; loaders may normalise it.
    if (dtype === 'BOOL') data.forEach((byte, index) => (data[index] = byte & 1))
    shards[whole(files)]!.push({ name: `model.layers.${count}.${'é'.repeat(whole(3))}weight`, dtype, shape, data })
    total += size
    count += 1
  }
  const paths: string[] = []
  for (const [index, shard] of shards.entries()) {
    const path = join(directory, `model-${index}.safetensors`)
    await writeFile(path, shard)
    paths.push(path)
  }
  return {
    directory,
    files: paths,
    bytes: total,
    tensors: count,
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  }
}
