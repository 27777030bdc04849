import { isUtf8 } from 'node:buffer'
import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import type { SafetensorsHeader } from './header.ts'
import { JsonCursor } from './json-cursor.ts'
import { malformed, quote, unreadable } from './malformed.ts'
import { openRegular, readHeader } from './read.ts'
import { Slices } from './slices.ts'

const INDEX_SUFFIX = '.safetensors.index.json'
const SUFFIX = '.safetensors'
/** Headers read at the same time: enough to hide latency, few enough to spare file descriptors. */
const PARALLEL = 16
/** Largest index in bytes: as large as the format lets a header be, which says more of each tensor. */
const MAX_INDEX_BYTES = 100_000_000

/** The files of one checkpoint with their headers. */
export interface CheckpointFiles {
  readonly directory: string
  /** Path of the index that named the files; absent when there was none. */
  readonly index?: string
  /** Paths, ascending. */
  readonly files: readonly string[]
  /** One header a file, in the order of `files`. */
  readonly headers: readonly SafetensorsHeader[]
}

/**
 * Finds the files of a checkpoint and reads their headers.
 *
 * `path` may be an index (`….safetensors.index.json`), a single `.safetensors` file, or a directory. In a directory the index
 * wins (`model.safetensors.index.json`, or the only one there), then `model.safetensors`, then all `*.safetensors`.
 * With an index, a tensor that its shard lacks, one that stands in two shards and a shard that is not there are errors; shards
 * may hold tensors that the index does not name.
 *
 * @throws CkptError `CHECKPOINT_UNREADABLE` or `CHECKPOINT_MALFORMED`, naming the file, the tensor and the field.
 */
export async function readIndex(path: string): Promise<CheckpointFiles> {
  const isDirectory = await stat(path).then(
    (found) => found.isDirectory(),
    (error: unknown) => {
      throw unreadable(path, error)
    },
  )
  if (!isDirectory) {
    return path.endsWith('.json') ? readSharded(path) : readAll(dirname(path), [path])
  }
  const names = (await readdir(path).catch((error: unknown) => Promise.reject(unreadable(path, error)))).sort()
  const indexes = names.filter((name) => name.endsWith(INDEX_SUFFIX))
  const index = indexes.includes(`model${INDEX_SUFFIX}`) ? `model${INDEX_SUFFIX}` : indexes[0]
  if (index !== undefined) {
    if (index !== `model${INDEX_SUFFIX}` && indexes.length > 1) {
      throw new CkptError('INVALID_ARGUMENT', `${path}: several indexes (${indexes.join(', ')}): name the one to use`, {
        fields: { file: path },
      })
    }
    return readSharded(join(path, index))
  }
  const files = names.includes(`model${SUFFIX}`) ? [`model${SUFFIX}`] : names.filter((name) => name.endsWith(SUFFIX))
  if (files.length === 0) {
    throw new CkptError('CHECKPOINT_UNREADABLE', `${path}: no safetensors file in this directory`, { fields: { file: path } })
  }
  return readAll(
    path,
    files.map((name) => join(path, name)),
  )
}

/**
 * Reads the headers of several files that make up one checkpoint.
 *
 * @throws CkptError as {@link readHeader} does, and `CHECKPOINT_MALFORMED` for a tensor that stands in two of the files.
 */
export async function readHeaders(files: readonly string[]): Promise<SafetensorsHeader[]> {
  const headers = new Array<SafetensorsHeader>(files.length)
  let next = 0
  await Promise.all(
    Array.from({ length: Math.min(PARALLEL, files.length) }, async () => {
      for (let i = next++; i < files.length; i = next++) headers[i] = await readHeader(files[i]!)
    }),
  )
  await shardOf(headers)
  return headers
}

async function readAll(directory: string, files: readonly string[]): Promise<CheckpointFiles> {
  return { directory, files, headers: await readHeaders(files) }
}

async function readSharded(index: string): Promise<CheckpointFiles> {
  const directory = dirname(index)
  const weightMap = await readWeightMap(index)
  const shards = [...new Set(weightMap.values())].sort()
  const headers = await readHeaders(shards.map((name) => join(directory, name))).catch((error: unknown) => {
    if (!CkptError.is(error, 'CHECKPOINT_UNREADABLE')) throw error
    throw new CkptError(error.code, `${error.message} (${index} names it)`, { fields: error.fields, cause: error })
  })
  const holder = await shardOf(headers)
  for (const [tensor, shard] of weightMap) {
    const found = holder.get(tensor)
    if (found !== undefined && basename(found.file) === shard) continue
    const where = found === undefined ? 'no shard holds it' : `${basename(found.file)} holds it`
    throw malformed({ file: index, tensor, field: 'weight_map' }, `weight_map says ${quote(shard)}, but ${where}`)
  }
  return { directory, index, files: headers.map((header) => header.file), headers }
}

async function readWeightMap(index: string): Promise<Map<string, string>> {
  const text = await readRegular(index)
  if (!isUtf8(text)) throw malformed({ file: index, field: 'index' }, 'the index is not valid UTF-8')
  const cursor = new JsonCursor(text, index, 'index')
  const keys = new Set<string>()
  const weightMap = new Map<string, string>()
  const slices = new Slices()
  for (const key of cursor.members()) {
    if (keys.has(key)) throw cursor.fail(`key ${quote(key)} stands twice`)
    keys.add(key)
    if (key !== 'weight_map') {
      cursor.skip()
      continue
    }
    cursor.field = 'weight_map'
    for (const tensor of cursor.members()) {
      if (slices.isOver) await slices.pause()
      cursor.tensor = tensor
      if (weightMap.has(tensor)) throw cursor.fail('the name stands twice in weight_map')
      const shard = cursor.string()
      // Anything but a plain file name could lead out of the checkpoint's directory.
      if (!/^[^/\\\0]+\.safetensors$/.test(shard) || shard.startsWith('..')) {
        throw cursor.fail(`shard ${quote(shard)} is not the name of a safetensors file in the same directory`)
      }
      weightMap.set(tensor, shard)
      cursor.tensor = undefined
    }
    cursor.field = 'index'
  }
  cursor.end()
  if (!keys.has('weight_map')) throw malformed({ file: index, field: 'weight_map' }, 'weight_map is missing')
  if (weightMap.size === 0) throw malformed({ file: index, field: 'weight_map' }, 'weight_map names no tensor')
  return weightMap
}

async function readRegular(path: string): Promise<Buffer> {
  try {
    await using file = await openRegular(path)
    const { size } = await file.stat()
    if (size > MAX_INDEX_BYTES) {
      throw malformed({ file: path, field: 'index' }, `the index holds ${size} bytes, at most ${MAX_INDEX_BYTES} are read`)
    }
    return await file.readFile()
  } catch (error) {
    throw CkptError.is(error) ? error : unreadable(path, error)
  }
}

/** Which header holds a tensor; no name may stand in two. */
async function shardOf(headers: readonly SafetensorsHeader[]): Promise<Map<string, SafetensorsHeader>> {
  const slices = new Slices()
  const holder = new Map<string, SafetensorsHeader>()
  for (const header of headers) {
    for (const { name } of header.tensors) {
      if (slices.isOver) await slices.pause()
      const other = holder.get(name)
      if (other !== undefined) {
        throw malformed({ file: header.file, tensor: name, field: 'name' }, `the name stands in ${other.file} too`)
      }
      holder.set(name, header)
    }
  }
  return holder
}
