/** Helpers of this package's tests; not part of its exports. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { CkptError, tensorAt, type AllocateOptions, type Host } from '@ckpt/contract'
import { readHeader, writeFile, type WritableTensor } from '@ckpt/safetensors'
import type { CheckpointStore } from './checkpoint-store.ts'

/** 2^20 bytes. */
export const MIB = 1024 * 1024

/** Reproducible bytes that differ from tensor to tensor. */
export function bytesOf(seed: number, bytes: number): Buffer {
  const data = Buffer.alloc(bytes)
  for (let i = 0; i < bytes; i++) data[i] = (i * 31 + seed * 7 + (i >> 8)) & 0xff
  return data
}

/** Writes a file of tensors of the given sizes; names start with `prefix`. Returns its path. */
export async function file(folder: string, prefix: string, sizes: readonly number[]): Promise<string> {
  const tensors = sizes.map((bytes, i): WritableTensor => ({
    name: `${prefix}.${i}`,
    dtype: 'U8',
    shape: [bytes],
    data: bytesOf(i + prefix.length, bytes),
  }))
  const path = join(folder, `${prefix}.safetensors`)
  await writeFile(path, tensors)
  return path
}

/** Returns every tensor's bytes as the store holds them, by name. */
export function contents(store: CheckpointStore, name: string): Map<string, string> {
  using lease = store.lease(name)
  const found = new Map<string, string>()
  for (let i = 0; i < lease.table.count; i++) {
    const tensor = tensorAt(lease.table, i)
    found.set(tensor.name, lease.segments[tensor.segment]!.view(tensor.offset, tensor.bytes).toString('base64'))
  }
  return found
}

/** Returns the same from plain file reads. */
export async function fromDisk(paths: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  for (const path of paths) {
    const bytes = await readFile(path)
    const { dataStart, tensors } = await readHeader(path)
    for (const { name, begin, end } of tensors) found.set(name, bytes.toString('base64', dataStart + begin, dataStart + end))
  }
  return found
}

export async function failure(run: () => unknown): Promise<CkptError> {
  try {
    await run()
  } catch (error) {
    if (CkptError.is(error)) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

/** Returns the real host, but runs `before` at the start of each allocation. */
export function hostWith(host: Host, before: (options: AllocateOptions) => Promise<void>): Host {
  return new Proxy(host, {
    get(target, key) {
      if (key === 'allocate') {
        return async (options: AllocateOptions) => {
          await before(options)
          return target.allocate(options)
        }
      }
      const value: unknown = Reflect.get(target, key)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}
