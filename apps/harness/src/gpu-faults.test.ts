import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost, probeCuda } from '@ckpt/transport'
import { describe, expect, it } from 'vitest'
import { generateCheckpoint, Random } from '@ckpt/testing'
import { FaultCluster, type StrategyName } from './faults/fault-cluster.ts'
import type { Fault, Point } from './faults/fault.ts'
import { updateBreaks } from './faults/invariants.ts'
import { PROCESS_FAULTS } from './faults/process-faults.ts'
import { updateTrial } from './faults/trial.ts'

const gpus = (await probeCuda().catch(() => undefined))?.devices.length ?? 0
const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
const python = process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')
const KILLS = Number(process.env['CKPT_GPU_KILLS'] ?? 20)
const SEED = Number(process.env['CKPT_GPU_SEED'] ?? 1)
/** Bytes that the driver keeps for processes that start and end; a leaked ring or communicator would be far larger. */
const GRANULES = 32 * 2 ** 20
/** Time that releasing a killed process's memory and closing a communicator may take, in milliseconds. */
const SETTLE_MS = 5000

const KINDS = ['broadcast', 'direct'] as const satisfies readonly StrategyName[]

interface Kill {
  readonly fault: Fault
  readonly point: Point
  readonly strategy: (typeof KINDS)[number]
}

/**
 * Engine workers take seconds to start, so they are killed less often; most moments are random, and half of the updates are
 * direct.
 */
function plan(random: Random): Kill[] {
  const strategies = random.shuffle(Array.from({ length: KILLS }, (_, i) => KINDS[i % 2]!))
  const fault = (name: string) => PROCESS_FAULTS.find((one) => one.name === name)!
  const held: Point[] = ['begin', 'plan', 'h2d', 'broadcast']
  return random.shuffle(
    Array.from({ length: KILLS }, (_, i) => {
      const strategy = strategies[i]!
      if (i % 10 === 9) return { fault: fault('engine killed'), point: 'any' as const, strategy }
      return {
        fault: fault(i % 3 === 0 ? 'coordinator killed' : 'rank killed'),
        point: i % 2 === 0 ? 'any' : held[(i >> 1) % 4]!,
        strategy,
      }
    }),
  )
}

describe('gpu: kills in broadcast and direct updates', () => {
  it(
    'end on the survivors with a typed error, give device memory back, and the next update is right',
    { timeout: 60_000 + KILLS * 22_000 },
    async (context) => {
      if (gpus < 2) context.skip(`2 GPUs are needed, there are ${gpus}`)
      using checkpoint = await generateCheckpoint(
        createHost(),
        model('qwen3-30b-a3b'),
        512 * 2 ** 20,
        BigInt(SEED),
        'gpu-faults',
      )
      const random = new Random(SEED)
      const cluster = await FaultCluster.start({
        ranks: 2,
        windowMs: 1000,
        timeoutMs: 15_000,
        checkpoint,
        gpus: { python },
        bucketBytes: 2 ** 22,
      })
      const free = async () =>
        (await Promise.all(cluster.ranks.map((rank) => rank.call('deviceMemory', undefined)))).map((one) => one.free)
      const breaks: string[] = []
      try {
        // The first update loads libraries; the timed ones are representative of the others.
        breaks.push(...(await updateBreaks(cluster, 'first')))
        const anyMs = { broadcast: 0, direct: 0 }
        for (const strategy of KINDS) {
          await cluster.prepare(strategy)
          const started = performance.now()
          const reports = await Promise.all(
            cluster.everybody.map((rank) => cluster.update(rank, { version: `timed ${strategy}`, strategy })),
          )
          anyMs[strategy] = Math.ceil(performance.now() - started)
          expect(reports.map((report) => report.strategy)).toEqual(reports.map(() => strategy))
        }
        await sleep(SETTLE_MS / 2)
        const before = await free()
        console.log(
          `an update takes ${anyMs.broadcast} ms, a direct one ${anyMs.direct} ms; free device memory ${before.map((bytes) => (bytes / 2 ** 20).toFixed(0)).join(', ')} MiB`,
        )
        for (const [index, { fault, point, strategy }] of plan(random).entries()) {
          const setting = { cluster, random, number: index + 1, alone: false, anyMs: anyMs[strategy], strategies: [strategy] }
          const result = await updateTrial(setting, fault, point)
          const until = performance.now() + SETTLE_MS
          let after = await free()
          while (after.some((bytes, rank) => bytes < before[rank]! - GRANULES) && performance.now() < until) {
            await sleep(100)
            after = await free()
          }
          const missing = after.map((bytes, rank) => before[rank]! - bytes)
          const error =
            result.errorMs === undefined ? '' : ` after ${(result.errorMs / 1000).toFixed(2)} s (${result.codes.join(' ')})`
          console.log(
            `${index + 1} ${fault.name} at ${point} of ${strategy}, rank ${result.victim}: ${result.state}${error}, ${(result.totalMs / 1000).toFixed(1)} s in all, ` +
              `device memory ${missing.map((bytes) => `${(-bytes / 2 ** 20).toFixed(1)} MiB`).join(', ')}`,
          )
          const lost = missing.flatMap((bytes, rank) =>
            bytes > GRANULES ? `${bytes} bytes of GPU ${rank} did not come back` : [],
          )
          breaks.push(
            ...[...result.breaks, ...lost].map((what) => `${index + 1} ${fault.name} at ${point} of ${strategy}: ${what}`),
          )
        }
      } finally {
        await cluster.close()
      }
      expect(breaks).toEqual([])
    },
  )
})
