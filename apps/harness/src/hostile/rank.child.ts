/**
 * A rank with a lying engine: `node rank.child.ts FILE`. Runs an update for each message of its parent, which plays the engine,
 * and reports the result and the process's resources. The two accesses mark in a trace where the lies begin and end.
 */
import { accessSync, readFileSync, readdirSync } from 'node:fs'
import { CkptError, type EngineAdapter, type EngineCall, type EngineStart } from '@ckpt/contract'
import { ParameterServer, direct } from '@ckpt/core'
import type { Asked, Outcome } from './trials.ts'

const [file] = process.argv.slice(2) as [string]
const server = await open()

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

async function open(): Promise<ParameterServer> {
  const opened = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 5000 })
  await opened.registerCheckpoint('a', { files: [file] })
  await opened.gatherMetas('a', { digests: true })
  return opened
}

async function update({ version, timeoutMs, strategy, fresh, prepare }: Asked & { kind: 'update' }): Promise<Outcome> {
  // A rank that has been told that a loader cannot be rehearsed does not ask again, and what is prepared is not prepared again.
  const own = fresh ? await open() : server
  try {
    const start = ({ endpoints, token }: EngineStart): Promise<EngineCall> => {
      process.send!({ kind: 'start', address: endpoints[0]!.address, token })
      return Promise.resolve({})
    }
    const engine: EngineAdapter = { name: 'hostile', ready: () => Promise.resolve(), start, prepare: start }
    const way = { engine, timeoutMs, ...(strategy === 'direct' && { strategy: direct() }) }
    if (prepare) {
      const { prepared } = await own.prepare('a', { ...way, strategy: direct() })
      return { strategy: `prepared ${prepared}` }
    }
    const report = await own.update('a', { ...way, version })
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
  } finally {
    if (fresh) await own.close()
  }
}
