import { freePort, spawnSource } from '@ckpt/testing'
import type { GatherRun } from '../result.ts'
import { summarize } from '../statistics.ts'
import type { GatherRankResult } from './gather-rank.ts'

/** Measures `gatherMetas` of a model's full-size metadata over several rank processes; the slowest rank counts. */
export async function measureGather(model: string, ranks: number, repeat: number): Promise<GatherRun> {
  const address = `tcp://127.0.0.1:${await freePort()}`
  const processes = Array.from({ length: ranks }, (_, rank) =>
    spawnSource(`gather rank ${rank}`, new URL('./gather-rank.ts', import.meta.url), [
      model,
      String(rank),
      String(ranks),
      address,
      String(repeat),
    ]),
  )
  try {
    const results = await Promise.all(
      processes.map(
        ({ child, name, ...spawned }) =>
          new Promise<GatherRankResult>((resolve, reject) => {
            child.once('message', (message) => resolve(message as GatherRankResult))
            child.once('exit', (code) => reject(new Error(`${name} exited with ${code}: ${spawned.stderr()}`)))
          }),
      ),
    )
    const unchanged = Array.from({ length: repeat }, (_, i) => Math.max(...results.map((result) => result.unchangedMs[i]!)))
    return {
      model,
      ranks,
      tensors: results[0]!.tensors,
      firstMs: Math.max(...results.map((result) => result.firstMs)),
      unchangedMs: summarize(unchanged),
    }
  } finally {
    await Promise.all(processes.map((process) => process.stop()))
  }
}
