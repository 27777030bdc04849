import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { readIndex } from './shards.ts'
import { headerFor } from './write.ts'

const directory = mkdtempSync(join(tmpdir(), 'ckpt-fuzz-index-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
const index = join(directory, 'model.safetensors.index.json')
const shards = ['model-1.safetensors', 'model-2.safetensors']

/** Sharded indexes (`model.safetensors.index.json`) with two shards of one tensor each. */
export const fuzz = {
  name: 'index',
  seeds(): Uint8Array[] {
    shards.forEach((shard, i) => {
      const { header, dataBytes } = headerFor([{ name: `t${i}`, dtype: 'U8' as const, shape: [4] }])
      writeFileSync(join(directory, shard), Buffer.concat([header, Buffer.alloc(dataBytes)]))
    })
    const map = { t0: shards[0], t1: shards[1] }
    return [
      { metadata: {}, weight_map: map },
      { weight_map: map },
      { metadata: { total_size: 8, nested: [1, { a: null }] }, weight_map: { t0: shards[0] } },
      { weight_map: { '../t': '../../etc/passwd.safetensors' } },
    ].map((value) => Buffer.from(JSON.stringify(value)))
  },
  async run(input: Uint8Array): Promise<string> {
    writeFileSync(index, input)
    try {
      const { files } = await readIndex(directory)
      if (!files.every((file) => shards.some((shard) => file === join(directory, shard)))) {
        throw new Error(`the index led to ${files.join(', ')}`)
      }
      return `${files.length} files`
    } catch (error) {
      if (!CkptError.is(error, 'CHECKPOINT_MALFORMED') && !CkptError.is(error, 'CHECKPOINT_UNREADABLE')) throw error
      if (typeof error.fields.file !== 'string') throw new Error('the error names no file', { cause: error })
      return error.message.replaceAll(/\d+|"(?:[^"\\]|\\.)*"|\/\S+/g, '#').slice(0, 100)
    }
  },
}
