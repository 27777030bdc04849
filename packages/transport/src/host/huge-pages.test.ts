import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { release, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createHost } from './host.ts'

const host = createHost()
let directory: string

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ckpt-huge-'))
})
afterAll(() => rm(directory, { recursive: true }))

/** Bytes of this process's mappings of shareable memory that are in huge pages. */
function inHugePages(): number {
  const mappings = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  const kib = mappings
    .filter((mapping) => mapping.slice(0, mapping.indexOf('\n')).includes('/memfd:ckpt'))
    .map((mapping) => Number(/^ShmemPmdMapped: +(\d+) kB$/m.exec(mapping)?.[1] ?? 0))
  return kib.reduce((sum, one) => sum + one, 0) * 1024
}

describe('huge pages', () => {
  it('are formed for shareable memory where that is asked for', async ({ skip }) => {
    // MADV_COLLAPSE of shared memory exists since Linux 6.1.
    const [major = 0, minor = 0] = release().split('.').map(Number)
    if (major * 100 + minor < 601) skip(`Linux ${release()} cannot put pages together`)
    const bytes = 64 << 20
    const before = inHugePages()
    const plain = await host.allocate({ bytes, lock: false, shareable: true })
    const small = inHugePages() - before
    plain.close()
    if (small > 0) skip('the system makes huge pages of shared memory by itself')
    const memory = await host.allocate({ bytes, lock: false, shareable: true, hugePages: true })
    const formed = inHugePages() - before
    memory.close()
    // A machine may have few of them; none at all means that none were requested.
    expect(formed).toBeGreaterThan(0)
  })

  it('hold shareable memory without touching what is read into it', async () => {
    const bytes = (7 << 20) + 4097
    const file = join(directory, 'huge')
    const data = randomBytes(bytes)
    await writeFile(file, data)
    for (const prefault of [true, false]) {
      const memory = await host.allocate({ bytes, lock: false, shareable: true, hugePages: true, prefault })
      // Reads of all sizes on several threads: pages are formed while others are being filled.
      const cuts = [0, 1, 4096, 2 << 20, (2 << 20) + 5, 5 << 20, bytes]
      const reads = cuts.slice(1).map((end, i) => ({
        source: 0,
        sourceOffset: cuts[i]!,
        destination: 0,
        destinationOffset: cuts[i]!,
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
