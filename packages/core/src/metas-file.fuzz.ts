import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError, tensorTable } from '@ckpt/contract'
import { manifestOf } from './manifest.ts'
import { readMetas, writeMetas } from './metas-file.ts'

const directory = mkdtempSync(join(tmpdir(), 'ckpt-fuzz-metas-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
const path = join(directory, 'metas.json')

/** Files of saved metas. */
export const fuzz = {
  name: 'metas-file',
  async seeds(): Promise<Uint8Array[]> {
    const seeds: Uint8Array[] = [Buffer.from('{}'), Buffer.from('[]')]
    for (const count of [1, 30]) {
      const tensors = tensorTable(
        Array.from({ length: count }, (_, i) => {
          return {
            name: `model.layers.${i}.weight`,
            dtype: 'BF16' as const,
            shape: [4, 2],
            bytes: 16,
            segment: 0,
            offset: i * 16,
          }
        }),
      )
      const rank = { host: 'h', deviceUuid: 'u', segments: [{ kind: 'anonymous' as const, bytes: 1024 }], tensors, digest: '' }
      await writeMetas(path, { manifest: manifestOf('a', [{ ...rank, rank: 0 }]), access: [] })
      seeds.push(readFileSync(path))
    }
    return seeds
  },
  async run(input: Uint8Array): Promise<string> {
    writeFileSync(path, input)
    try {
      const { manifest } = await readMetas(path)
      return `${manifest.ranks.length} ranks`
    } catch (error) {
      if (!CkptError.is(error, 'METAS_MALFORMED')) throw error
      return error.message.replaceAll(/\d+|\/\S+/g, '#').slice(0, 100)
    }
  },
}
