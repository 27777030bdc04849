import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { readHeader } from './read.ts'
import { readHeaders, readIndex } from './shards.ts'
import { headerTurn, sortSteps } from './slices.ts'

let directory: string
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-slices-'))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** Number of event-loop turns during the work. */
async function turns(work: () => Promise<unknown>): Promise<number> {
  let count = 0
  let over = false
  const turn = () => {
    count++
    if (!over) setImmediate(turn)
  }
  setImmediate(turn)
  await work()
  over = true
  return count
}

it('sorts as the language does, whatever the order was', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(50), fc.nat(3))), fc.integer({ min: 1, max: 40 }), (small, times) => {
      const values = Array.from({ length: times }, () => small).flat()
      const compare = (a: readonly number[], b: readonly number[]) => a[0]! - b[0]!
      const expected = [...values].sort(compare)
      const steps = sortSteps(values, compare)
      while (steps.next().done !== true);
      expect(values).toEqual(expected)
    }),
  )
  for (const length of [4095, 4096, 4097, 8192, 20_000, 50_001]) {
    const values = Array.from({ length }, (_, i) => (i * 7919) % length)
    const steps = sortSteps(values, (a, b) => a - b)
    let count = 0
    while (steps.next().done !== true) count++
    expect(values).toEqual([...values].sort((a, b) => a - b))
    expect(count).toBeGreaterThan(length > 4096 ? 50 : 0)
  }
})

it.each(['in order', 'in disorder'])(
  'a large header %s, and the index that names its tensors, leave the process to others',
  async (order) => {
    const count = 60_000
    const at = (i: number) => (order === 'in order' ? i : (i * 7919) % count)
    const entries = Array.from(
      { length: count },
      (_, i) => `"layer.${at(i)}.weight":{"dtype":"U8","shape":[1],"data_offsets":[${at(i)},${at(i) + 1}]}`,
    )
    const text = Buffer.from(`{${entries.join(',')}}`)
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(text.length))
    const file = join(directory, 'model.safetensors')
    writeFileSync(file, Buffer.concat([length, text, Buffer.alloc(count)]))
    const map = Array.from({ length: count }, (_, i) => `"layer.${i}.weight":"model.safetensors"`).join(',')
    const index = join(directory, 'model.safetensors.index.json')
    writeFileSync(index, `{"weight_map":{${map}}}`)
    // Reading alone takes some turns, as for a small file.
    expect(await turns(() => readHeader(file))).toBeGreaterThan(5)
    expect(await turns(() => readHeaders([file]))).toBeGreaterThan(5)
    expect((await readHeader(file)).tensors.map(({ begin }) => begin)).toEqual(Array.from({ length: count }, (_, i) => i))
    expect((await readIndex(index)).headers[0]!.tensors).toHaveLength(count)
  },
)

it('an index over the limit is refused by its size, before it is read', async () => {
  const index = join(directory, 'huge.safetensors.index.json')
  writeFileSync(index, '{}')
  truncateSync(index, 2 ** 40)
  await expect(readIndex(index)).rejects.toMatchObject({
    code: 'CHECKPOINT_MALFORMED',
    fields: { file: index, field: 'index' },
  })
})

it('sixteen headers are read at once, and large ones one after the other', async () => {
  for (const [size, most] of [
    [1000, 16],
    [100 * 2 ** 20, 1],
    [50 * 2 ** 20, 2],
  ] as const) {
    let now = 0
    let seen = 0
    await Promise.all(
      Array.from({ length: 50 }, async () => {
        const done = await headerTurn(size)
        seen = Math.max(seen, ++now)
        await new Promise((resolve) => setImmediate(resolve))
        now--
        done()
      }),
    )
    expect(seen).toBe(most)
  }
})
