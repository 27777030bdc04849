import { isUtf8 } from 'node:buffer'
import { posix } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { foreignKind } from './foreign.ts'
import { JsonCursor } from './json-cursor.ts'
import { malformed, quote, unreadable } from './malformed.ts'
import type { OpenedFile } from './opened-file.ts'
import { Slices } from './slices.ts'

/** Largest index in bytes: the format's limit for a header, which holds more data per tensor. */
const MAX_INDEX_BYTES = 100_000_000
const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf])

/**
 * Reads an index: the shard of every tensor, as a path relative to the index. Like Python's `json`, it accepts NaN and
 * infinities in unused values; a byte order mark at the beginning is skipped.
 *
 * @throws CkptError `CHECKPOINT_MALFORMED`, `CHECKPOINT_UNREADABLE` or `CHECKPOINT_CHANGED`, naming the index.
 */
export async function readWeightMap(file: OpenedFile): Promise<Map<string, string>> {
  try {
    if (file.bytes > MAX_INDEX_BYTES) {
      throw malformed(
        { file: file.path, field: 'index' },
        `the index holds ${file.bytes} bytes; at most ${MAX_INDEX_BYTES} are read`,
      )
    }
    const bytes = await file.read(Buffer.allocUnsafeSlow(file.bytes), 0)
    if (bytes.length < file.bytes) throw malformed({ file: file.path, field: 'index' }, 'the index shrank while it was read')
    return await parse(bytes, file.path)
  } catch (error) {
    await file.checkUnchanged(error)
    throw CkptError.is(error) ? error : unreadable(file.path, error)
  }
}

async function parse(bytes: Buffer, file: string): Promise<Map<string, string>> {
  const text = bytes.subarray(0, 3).equals(BYTE_ORDER_MARK) ? bytes.subarray(3) : bytes
  const kind = text[0] === 0x7b ? undefined : foreignKind(bytes.subarray(0, 512))
  if (kind !== undefined) throw malformed({ file, field: 'index' }, `not an index but ${kind}`)
  if (!isUtf8(text)) throw malformed({ file, field: 'index' }, 'the index is not valid UTF-8')
  const cursor = new JsonCursor(text, file, 'index', { nonFinite: true })
  const keys = new Set<string>()
  const weightMap = new Map<string, string>()
  const slices = new Slices()
  for (const key of cursor.members()) {
    if (keys.has(key)) throw cursor.fail(`key ${quote(key)} appears twice`)
    keys.add(key)
    if (key !== 'weight_map') {
      cursor.skip()
      continue
    }
    cursor.field = 'weight_map'
    for (const tensor of cursor.members()) {
      if (slices.isOver) await slices.pause()
      cursor.tensor = tensor
      if (weightMap.has(tensor)) throw cursor.fail('the name appears twice in weight_map')
      const shard = cursor.string()
      if (!isShard(shard)) {
        throw cursor.fail(`shard ${quote(shard)} is not the path of a safetensors file in or below the index's directory`)
      }
      weightMap.set(tensor, shard)
      cursor.tensor = undefined
    }
    cursor.field = 'index'
  }
  cursor.end()
  if (!keys.has('weight_map')) throw malformed({ file, field: 'weight_map' }, 'weight_map is missing')
  if (weightMap.size === 0) throw malformed({ file, field: 'weight_map' }, 'weight_map names no tensor')
  return weightMap
}

/**
 * Returns true for a plain relative path: any other could lead out of the checkpoint's directory, or name one file in two ways.
 */
function isShard(path: string): boolean {
  return (
    /^[^\\\0]+\.safetensors$/.test(path) && !path.startsWith('/') && !path.startsWith('..') && posix.normalize(path) === path
  )
}
