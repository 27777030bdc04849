import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster } from '@ckpt/testing'
import {
  CHANGE_NAMES,
  ChangingFiles,
  forget,
  gather,
  POINTS,
  STRATEGIES,
  updateChanging,
  type Change,
} from './testing/changing-files.fixture.ts'

// Files that are used in place change at every point of an update. What is committed is the complete old version, checked byte
// by byte against unchanged files; everything else is a retryable error that names the file or the tensor.

const RANKS = 2
let files: ChangingFiles
beforeAll(async () => {
  files = await ChangingFiles.create('/dev/shm', 'in-place')
})
afterAll(() => files[Symbol.dispose]())

/** Files that keep their old bytes in existing mappings: nothing may fail. */
const HARMLESS = new Set<Change>(['replace', 'remove'])

describe.for(Object.keys(STRATEGIES))('files in place that change during a %s update', (strategy) => {
  it('leave the old version whole, or an error that says so', { timeout: 600_000 }, async () => {
    await using cluster = await Cluster.start({
      ranks: RANKS,
      timeoutMs: 60_000,
      env: () => ({ CKPT_P2P_ADDRESS: '127.0.0.1' }),
      engine: { kind: 'typescript', checkpoint: files.versions[0]!.directory },
    })
    const options = STRATEGIES[strategy]!
    let step = 0
    const register = async (version: number): Promise<string> => {
      files.put(version)
      const name = `step-${step++}`
      await cluster.register(name, files.directory, { inPlace: true })
      return name
    }
    const updateTo = async (name: string): Promise<void> => {
      if (options.p2p) await gather(cluster, name)
      await cluster.update(name, options)
    }
    const served = async (version: number): Promise<void> => {
      for (const engine of cluster.engines) {
        expect(await engine.verify(files.versions[version]!.files)).toMatchObject({ verified: true })
      }
    }
    // The first update records direct updates.
    for (let i = 0; i < 2; i++) {
      const name = await register(i)
      await updateTo(name)
      await forget(cluster, name)
    }
    const seen: Record<string, number> = {}
    for (const [turn, point] of POINTS.entries()) {
      for (const how of CHANGE_NAMES) {
        const version = (turn + step) % 2
        const name = await register(version)
        const file = files.shards[step % files.shards.length]!
        let error: unknown
        try {
          await updateChanging(cluster, { name, point, options }, () => files.change(how, file, 1 - version))
        } catch (thrown) {
          // The rank that has the file informs the others, whose own error then says so.
          error = CkptError.is(thrown, 'ABORTED') && CkptError.is(thrown.cause) ? thrown.cause : thrown
        }
        const what = `${how} at ${point}`
        if (error === undefined) {
          await served(version)
          seen['whole'] = (seen['whole'] ?? 0) + 1
        } else {
          expect(
            CkptError.is(error) && error.retryable,
            `${what}: ${error instanceof Error ? error.message : 'no error'}`,
          ).toBe(true)
          const { code, fields } = error as CkptError
          seen[code] = (seen[code] ?? 0) + 1
          if (code === 'DIGEST_MISMATCH') expect(fields.tensor, what).toBeTypeOf('string')
          else expect([code, fields.file], what).toEqual(['MEMORY_CHANGED', join(files.directory, file)])
        }
        if (HARMLESS.has(how)) expect(error, what).toBeUndefined()
        await forget(cluster, name)
        if (error !== undefined) {
          // It can be retried after the files are restored.
          const again = await register(version)
          await updateTo(again)
          await served(version)
          await forget(cluster, again)
        }
      }
    }
    console.log(`${strategy}: ${JSON.stringify(seen)}`)
    // Both cases occurred: harmless changes, and detected changes.
    expect(seen['whole']).toBeGreaterThanOrEqual(POINTS.length * HARMLESS.size)
    expect(seen['MEMORY_CHANGED']).toBeGreaterThan(0)
  })
})
