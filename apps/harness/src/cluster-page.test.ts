import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EngineProcess, freePort, generateCheckpoint, nodeArguments } from '@ckpt/testing'
import { checkPage, noBrowser, startBrowser } from '@ckpt/testing/pages'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const TOKEN = 'a token of sixteen letters'
const RANKS = [0, 1, 2]

describe('the cluster page of ckpt serve', { timeout: 180_000 }, () => {
  let directory: string
  const ended: (() => Promise<unknown> | void)[] = []
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-cluster-page-'))
  })
  afterEach(async () => {
    for (const end of ended.splice(0).reverse()) await end()
    rmSync(directory, { recursive: true, force: true })
  })

  /** Three ranks with their APIs; the last engine fails its first update. */
  async function served(checkpoint: string) {
    const engines = RANKS.map((tpRank) => {
      const extra = tpRank === 2 ? ['--fail-at-bucket', '1'] : []
      return new EngineProcess({ kind: 'typescript', directory, checkpoint, tpRank, tpSize: RANKS.length, extra })
    })
    ended.push(() => Promise.all(engines.map((engine) => engine.process.stop())))
    await Promise.all(engines.map((engine) => engine.ready()))
    const meeting = String(await freePort())
    const ranks = RANKS.map(async (rank) => {
      const args = [
        'serve',
        '--engine-control',
        engines[0]!.socket.replace('-0.sock', '-{rank}.sock'),
        '--port',
        String(await freePort()),
        '--root',
        checkpoint,
      ]
      const child = spawn(process.execPath, [...nodeArguments(MAIN), ...args], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: {
          ...{ ...process.env, RANK: String(rank), WORLD_SIZE: '3', MASTER_ADDR: '127.0.0.1', MASTER_PORT: meeting },
          ...{ CKPT_HTTP_TOKEN: TOKEN, CKPT_TOKEN: 'a secret of the run' },
        },
      })
      const stop = async (signal: NodeJS.Signals) => {
        if (child.exitCode !== null || child.signalCode !== null) return
        const exited = once(child, 'exit')
        child.kill(signal)
        await exited
      }
      ended.push(() => stop('SIGTERM'))
      let printed = ''
      child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text))
      await expect.poll(() => printed.includes('\n'), { timeout: 60_000 }).toBe(true)
      return { origin: (JSON.parse(printed) as { listening: string }).listening, stop }
    })
    return { ranks: await Promise.all(ranks), engines }
  }

  it('shows versions, dirty engines, links and last updates of all ranks, and a rank that was lost', async (context) => {
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 24 * 2 ** 20, 6n, 'cluster')
    const { ranks } = await served(checkpoint.directory)
    const authorization = `Bearer ${TOKEN}`
    const post = (rank: number, path: string, body?: object) =>
      fetch(`${ranks[rank]!.origin}/v1/checkpoints/step-1${path}`, {
        method: 'POST',
        headers: { authorization, ...(body && { 'content-type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
      })
    const all = (path: string, body?: object) => Promise.all(RANKS.map(async (rank) => (await post(rank, path, body)).status))
    const cluster = async (rank = 0) => {
      const answer = await fetch(`${ranks[rank]!.origin}/v1/cluster`, { headers: { authorization } })
      return (await answer.json()) as { ranks: Record<string, unknown>[] }
    }
    const soon = (of: () => Promise<unknown>) => expect.poll(of, { timeout: 30_000 })

    expect((await fetch(`${ranks[0]!.origin}/v1/cluster`)).status).toBe(401)
    const member = { membership: 'member', report: { state: 'ready', reasons: [], last: null } }
    await soon(cluster).toMatchObject({ worldSize: 3, ranks: RANKS.map((rank) => ({ rank, ...member })) })

    // Each rank holds a third of the files' bytes, so that all are read by others.
    expect(
      await Promise.all(
        RANKS.map(async (rank) => (await post(rank, '/files', { files: rank === 0 ? checkpoint.files : [] })).status),
      ),
    ).toEqual([200, 200, 200])
    expect(await all('/gather-metas')).toEqual([200, 200, 200])
    await soon(cluster).toMatchObject({
      ranks: [{ links: [expect.stringMatching(/^tcp .*:\d+/)], report: { checkpoints: [{ name: 'step-1' }] } }, {}, {}],
    })

    expect(await all('/update', { timeout: 20 })).toEqual([503, 503, 502])
    await soon(cluster).toMatchObject({
      ranks: RANKS.map(() => ({ report: { last: { error: { message: expect.any(String) as string } } } })),
    })
    expect((await cluster()).ranks[2]).toMatchObject({ report: { engines: [{ dirty: true }] } })
    expect(await all('/update', { timeout: 20 })).toEqual([200, 200, 200])
    const clean = {
      engines: [{ version: 'step-1', dirty: false }],
      last: { checkpoint: 'step-1', strategy: expect.any(String) as string },
    }
    await soon(cluster).toMatchObject({ ranks: RANKS.map((rank) => ({ rank, report: clean })) })
    // Every rank knows as much as rank 0.
    expect((await cluster(1)).ranks).toMatchObject(RANKS.map((rank) => ({ rank, membership: 'member', report: clean })))

    await ranks[2]!.stop('SIGKILL')
    await soon(cluster).toMatchObject({
      ranks: [{}, {}, { membership: 'lost', why: expect.stringContaining('silent') as string }],
    })

    if (noBrowser !== undefined) context.skip(noBrowser)
    const browser = await startBrowser()
    ended.push(() => browser.close())
    const page = await browser.newPage()
    const problems: string[] = []
    page.on('pageerror', ({ message }) => problems.push(message))
    await page.goto(`${ranks[0]!.origin}/cluster`)
    await soon(() => page.locator('#connection').innerText()).toContain('a token is needed')
    await page.goto('about:blank')
    await page.goto(`${ranks[0]!.origin}/cluster#token=${encodeURIComponent(TOKEN)}`)
    await soon(() => page.locator('#ranks tbody tr').count()).toBe(3)
    const rows = await page.locator('#ranks tbody tr').allInnerTexts()
    expect(rows[0]).toMatch(/heard .* ago[^]*ready[^]*step-1[^]*step-1, \d+\.\d MB/)
    expect(rows[2]).toMatch(/was silent for[^]*unknown/)
    expect(await page.locator('#links').innerText()).toMatch(/0\s+HOST-\w+\s+tcp /)
    expect(await page.locator('#summary').innerText()).toContain('2 of 3')
    expect(await checkPage(page, 'cluster')).toEqual([])
    await page.locator('#other').click()
    await soon(() => page.locator('#history').innerText()).toContain('serves step-1')
    expect(problems).toEqual([])
  })
})
