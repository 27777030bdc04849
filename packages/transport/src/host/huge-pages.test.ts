import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createHost } from './host.ts'

const host = createHost()
let directory: string

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ckpt-huge-'))
})
afterAll(() => rm(directory, { recursive: true }))

describe('huge pages', () => {
  it('hold shareable memory without touching what is read into it', async () => {
    const bytes = (7 << 20) + 4097
    const file = join(directory, 'huge')
    const data = randomBytes(bytes)
    await writeFile(file, data)
    for (const prefault of [true, false]) {
      const memory = await host.allocate({ bytes, lock: false, shareable: true, hugePages: true, prefault })
      // Reads of all sizes on several threads: pages are formed beside others that are being filled.
      const cuts = [0, 1, 4096, 2 << 20, (2 << 20) + 5, 5 << 20, bytes]
      const reads = cuts.slice(1).map((end, i) => ({
        file: 0,
        fileOffset: cuts[i]!,
        memory: 0,
        memoryOffset: cuts[i]!,
        bytes: end - cuts[i]!,
      }))
      await host.read({ files: [file], memories: [memory], reads, threads: 4 })
      const other = await host.mapFile(memory.name!, { lock: false })
      expect(memory.view(0, bytes).equals(data)).toBe(true)
      expect(other.view(0, bytes).equals(data)).toBe(true)
      other.close()
      memory.close()
    }
  })
})
