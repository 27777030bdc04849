import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { broadcast } from '@ckpt/broadcast'
import { CkptError, type UpdateStrategy } from '@ckpt/contract'
import { controlEngine, ParameterServer, type UpdateReport } from '@ckpt/core'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EngineProcess, freePort, generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/testing'
import { ownMemory } from './own-memory.fixture.ts'

const RANKS = [0, 1]

describe('a strategy that is none of ours', () => {
  let directory: string
  let checkpoint: GeneratedCheckpoint
  let engines: EngineProcess[]
  let servers: ParameterServer[]
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'strategies-test-'))
    checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 4 * 2 ** 20, 1n)
    engines = RANKS.map(
      (tpRank) =>
        new EngineProcess({ kind: 'typescript', directory, checkpoint: checkpoint.directory, tpRank, tpSize: RANKS.length }),
    )
    await Promise.all(engines.map((engine) => engine.ready()))
    const rendezvous = `tcp://127.0.0.1:${await freePort()}`
    const create = (rank: number) => ParameterServer.create({ rank, worldSize: RANKS.length, rendezvous, timeoutMs: 60_000 })
    servers = await Promise.all(RANKS.map(create))
    await Promise.all(servers.map((server) => server.registerCheckpoint('all', { files: checkpoint.files })))
  })
  afterEach(async () => {
    // Rank 0 hosts the coordinator: it ends last.
    for (const server of [...servers].reverse()) await server.close()
    await Promise.all(engines.map((engine) => engine.process.stop()))
    checkpoint[Symbol.dispose]()
    rmSync(directory, { recursive: true, force: true })
  })

  const update = (rank: number, strategy: UpdateStrategy): Promise<UpdateReport> =>
    servers[rank]!.update('all', { engine: controlEngine({ socket: engines[rank]!.socket }), strategy, version: strategy.name })

  it('updates engines, and is reported as itself', async () => {
    const reports = await Promise.all(RANKS.map((rank) => update(rank, ownMemory())))
    for (const report of reports) {
      expect(report).toMatchObject({ strategy: 'own-memory', verified: 'sources', bytes: checkpoint.bytes, broadcastBytes: 0 })
    }
    for (const engine of engines) {
      expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
      expect(await engine.health()).toMatchObject({ version: 'own-memory', dirty: false })
    }
    // The next update, with a built-in strategy, works normally.
    await Promise.all(RANKS.map((rank) => update(rank, broadcast())))
  })

  it('is not mixed with another one', async () => {
    const results = await Promise.allSettled([update(0, ownMemory()), update(1, broadcast())])
    const codes = results.map((result) => {
      const error = result.status === 'rejected' ? CkptError.from(result.reason, 'UPDATE_FAILED') : undefined
      return error?.code === 'ABORTED' ? CkptError.from(error.cause, 'UPDATE_FAILED') : error
    })
    for (const error of codes) expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', fields: { field: 'strategy' } })
  })
})
