import { tmpdir } from 'node:os'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Cluster } from '@ckpt/testing'
import { CHANGE_NAMES, ChangingFiles, forget, POINTS, STRATEGIES, updateChanging } from './testing/changing-files.fixture.ts'

// Files that were registered with a copy change afterwards, at every point, all of them, each differently: no change may be
// visible. (Changes during registration: packages/memory/src/changing-files.test.ts; files in place: in-place.test.ts.)

let files: ChangingFiles
beforeAll(async () => {
  files = await ChangingFiles.create(tmpdir(), 'copied')
})
afterAll(() => files[Symbol.dispose]())

it.each(Object.keys(STRATEGIES))(
  'a copy stays whole in a %s update, whatever happens to its files after they were registered',
  { timeout: 600_000 },
  async (strategy) => {
    await using cluster = await Cluster.start({
      ranks: 2,
      timeoutMs: 60_000,
      shareMemory: strategy === 'direct',
      env: () => ({ CKPT_P2P_ADDRESS: '127.0.0.1' }),
      engine: { kind: 'typescript', checkpoint: files.versions[0]!.directory },
    })
    const options = STRATEGIES[strategy]!
    const strategies = new Set<string>()
    // The first two updates record, for direct updates.
    for (const [step, point] of [undefined, undefined, ...POINTS].entries()) {
      const version = step % 2
      files.put(version)
      expect(files.shards.length).toBeGreaterThanOrEqual(CHANGE_NAMES.length)
      const name = `step-${step}`
      await cluster.register(name, files.directory)
      let changed = 0
      const change = () => {
        for (const [index, file] of files.shards.entries()) {
          files.change(CHANGE_NAMES[(index + step) % CHANGE_NAMES.length]!, file, 1 - version)
          changed++
        }
      }
      const act = point === undefined ? () => undefined : change
      const reports = await updateChanging(cluster, { name, point: point ?? 'registered', options }, act)
      if (point !== undefined) {
        expect(changed, point).toBeGreaterThanOrEqual(CHANGE_NAMES.length)
        for (const report of reports) {
          expect(report, point).toMatchObject({ verified: strategy === 'direct' ? 'bytes' : 'sources', version: name })
          strategies.add(report.strategy)
        }
      }
      for (const engine of cluster.engines) {
        expect(await engine.verify(files.versions[version]!.files), `${point}`).toMatchObject({ verified: true })
      }
      await forget(cluster, name)
    }
    expect([...strategies]).toEqual([strategy])
  },
)
