/**
 * A rank with a lying engine: `node rank.child.ts FILE`. Runs an update for each message of its parent, which plays the engine,
 * and reports the result and the process's resources. The two accesses mark in a trace where the lies begin and end.
 */
import { accessSync, readFileSync, readdirSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import { ParameterServer, direct } from '@ckpt/core'
import type { Asked, Outcome } from './trials.ts'

const [file] = process.argv.slice(2) as [string]
const server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 5000 })
await server.registerCheckpoint('a', { files: [file] })
await server.gatherMetas('a', { digests: true })

process.on('message', (asked: Asked) => void answer(asked))
process.on('disconnect', () => process.exit(0))
process.send!({ kind: 'ready' })

async function answer(asked: Asked): Promise<void> {
  if (asked.kind === 'mark') {
    try {
      accessSync(`/ckpt-trace-${asked.name}`)
    } catch {
      // Only the trace is searched for it.
    }
    ;(globalThis as { gc?: () => void }).gc?.()
    const mappings = readFileSync('/proc/self/maps', 'utf8').split('\n')
    return void process.send!({
      kind: 'holds',
      files: readdirSync('/proc/self/fd').length,
      shared: mappings.filter((line) => /\/dev\/shm|memfd/.test(line)).length,
      residentBytes: process.memoryUsage.rss(),
    })
  }
  process.send!({ kind: 'ended', ...(await update(asked)) })
}

async function update({ version, timeoutMs, strategy }: Asked & { kind: 'update' }): Promise<Outcome> {
  try {
    const report = await server.update('a', {
      version,
      timeoutMs,
      ...(strategy === 'direct' && { strategy: direct() }),
      engine: {
        name: 'hostile',
        ready: () => Promise.resolve(),
        start({ endpoints, token }) {
          process.send!({ kind: 'start', address: endpoints[0]!.address, token })
          return Promise.resolve({})
        },
      },
    })
    return { strategy: report.strategy, verified: report.verified }
  } catch (error) {
    const causes: string[] = []
    for (let cause = error; cause instanceof Error; cause = cause.cause) causes.push(cause.name)
    return {
      code: CkptError.is(error) ? error.code : 'none',
      message: String(error),
      causes,
      stack: String((error as Error).stack),
    }
  }
}
