import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  EngineProcess,
  freePort,
  generateCheckpoint,
  nodeArguments,
  randomCheckpoint,
  type Spawned,
  spawnSource,
  STOCK_WORKER,
  stockWorkerMissing,
} from '@ckpt/testing'
import { serveCollectiveRpc } from './http/collective-rpc.ts'

const RANKS = 2
const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const CLIENT = fileURLToPath(new URL('./http/client.py', import.meta.url))
const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
const python = process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')
const run = promisify(execFile)
const noClient = await run(python, ['-c', 'import httpx']).then(
  () => undefined,
  (error: unknown) =>
    `no Python client: ${String((error as { stderr?: string }).stderr ?? error)
      .trim()
      .split('\n')
      .at(-1)}`,
)

describe("a client of checkpoint-engine's API, unchanged,", { timeout: 120_000 }, () => {
  let directory: string
  const ended: (() => Promise<unknown> | void)[] = []
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-http-test-'))
  })
  afterEach(async () => {
    for (const end of ended.splice(0).reverse()) await end()
    rmSync(directory, { recursive: true, force: true })
  })

  const engines = async (options: (rank: number) => Partial<ConstructorParameters<typeof EngineProcess>[0]>) => {
    const all = Array.from({ length: RANKS }, (_, tpRank) => {
      const engine = new EngineProcess({
        kind: 'python',
        python,
        directory,
        checkpoint: '',
        tpRank,
        tpSize: RANKS,
        ...options(tpRank),
      })
      ended.push(() => engine.process.stop())
      return engine
    })
    await Promise.all(all.map((engine) => engine.ready()))
    return all
  }
  const client = async (job: Record<string, unknown>) => {
    const { stdout } = await run(python, [CLIENT, JSON.stringify(job)], { timeout: 60_000 })
    return JSON.parse(stdout) as number[][]
  }
  const share = (files: readonly string[]) => [
    files.filter((_, index) => index % 2 === 0),
    files.filter((_, index) => index % 2 === 1),
  ]

  it('updates stock workers behind /collective_rpc, on several ranks, and sees their errors', async (context) => {
    const missing = noClient ?? stockWorkerMissing(python)
    if (missing !== undefined) context.skip(missing)
    const workers = await engines((rank) => ({
      program: STOCK_WORKER,
      extra: ['--stand-in-cuda', ...(rank === 1 ? ['--fail-at-load', '1'] : [])],
    }))
    const port = String(await freePort())
    const apis = workers.map((_, rank) => join(directory, `api-${rank}.sock`))
    const serve = (rank: number): Spawned =>
      spawnSource(`rank ${rank}`, new URL('./http/serve-main.ts', import.meta.url), [apis[rank]!], {
        env: {
          ...{ RANK: String(rank), WORLD_SIZE: String(RANKS), MASTER_ADDR: '127.0.0.1', MASTER_PORT: port },
          CKPT_TOKEN: 'a secret of the run',
        },
      })
    const ranks = apis.map((_, rank) => serve(rank))
    for (const rank of ranks) ended.push(() => rank.stop())
    const devices = await Promise.all(ranks.map(async ({ child }) => (await once(child, 'message')) as [{ device: string }]))
    const rpc = join(directory, 'rpc.sock')
    const front = await serveCollectiveRpc(rpc, new Map(devices.map(([{ device }], rank) => [device, workers[rank]!.socket])))
    ended.push(() => front.close())

    using checkpoint = await randomCheckpoint(21, 24 * 2 ** 20)
    const job = {
      name: 'step-1',
      apis,
      files: share(checkpoint.files),
      update: {
        ranks: [],
        update_url: 'http://localhost/collective_rpc',
        inference_group_ranks: [0, 1],
        timeout: 20,
        uds: rpc,
      },
    }
    const failed = await client({ ...job, strict: false })
    expect(failed.map((statuses) => statuses[3])).toEqual([503, 502])
    expect(await client({ ...job, name: 'step-2' })).toEqual([
      [200, 200, 200, 200, 200],
      [200, 200, 200, 200, 200],
    ])
    for (const worker of workers) expect(await worker.verify(checkpoint.files)).toMatchObject({ verified: true })
  })

  it('updates the workers of ckpt serve, which ends in good order when it is told to', async (context) => {
    if (noClient !== undefined) context.skip(noClient)
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 24 * 2 ** 20, 5n, 'http')
    const workers = await engines(() => ({ kind: 'typescript', checkpoint: checkpoint.directory }))
    const args = [
      'serve',
      '--nproc',
      String(RANKS),
      '--uds',
      join(directory, 'api-{rank}.sock'),
      '--root',
      checkpoint.directory,
    ]
    const control = join(directory, 'engine-typescript-{rank}.sock')
    const child = spawn(process.execPath, [...nodeArguments(MAIN), ...args, '--engine-control', control], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let printed = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text))
    const exited = once(child, 'exit')
    ended.push(async () => {
      child.kill('SIGTERM')
      await exited
    })
    await expect.poll(() => printed.trim().split('\n').filter(Boolean).length, { timeout: 30_000 }).toBe(RANKS)
    const apis = Array.from({ length: RANKS }, (_, rank) => join(directory, `api-${rank}.sock`))
    const job = { name: 'step-1', apis, files: [checkpoint.files, []], update: { timeout: 20 } }
    expect(await client(job)).toEqual([
      [200, 200, 200, 200, 200],
      [200, 200, 200, 200, 200],
    ])
    for (const worker of workers) {
      expect(await worker.verify(checkpoint.files)).toMatchObject({ verified: true })
      expect(await worker.health()).toMatchObject({ version: 'step-1', dirty: false })
    }
    child.kill('SIGTERM')
    expect(await exited).toEqual([0, null])
    for (const api of apis) expect(existsSync(api)).toBe(false)
  })
})
