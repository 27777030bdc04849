import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { checkPage, noBrowser, startBrowser } from '@ckpt/testing/pages'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EngineProcess, freePort, generateCheckpoint, nodeArguments } from '@ckpt/testing'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const TOKEN = 'a token of sixteen letters'
/** The page as a reader sees it: sections by their heading. Runs in the page, so it is text. */
const SECTIONS = `Object.fromEntries([...document.querySelectorAll('section')].map((section) => [section.querySelector('h2').textContent, section.innerText]))`

describe('the live page of ckpt serve', { timeout: 120_000 }, () => {
  let directory: string
  const ended: (() => Promise<unknown> | void)[] = []
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-live-test-'))
  })
  afterEach(async () => {
    for (const end of ended.splice(0).reverse()) await end()
    rmSync(directory, { recursive: true, force: true })
  })

  /** One rank with its API, and an engine worker whose first update fails. */
  async function served(checkpoint: string): Promise<{ origin: string; engine: EngineProcess; restart(): Promise<string> }> {
    const engine = new EngineProcess({
      kind: 'typescript',
      directory,
      checkpoint,
      tpRank: 0,
      tpSize: 1,
      extra: ['--fail-at-bucket', '2'],
    })
    ended.push(() => engine.process.stop())
    await engine.ready()
    const history = join(directory, 'history-{rank}.json')
    const args = ['serve', '--engine-control', engine.socket, '--root', checkpoint, '--history', history]
    let stop = () => Promise.resolve()
    ended.push(() => stop())
    const start = async () => {
      const where = { RANK: '0', WORLD_SIZE: '1', MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(await freePort()) }
      const child = spawn(process.execPath, [...nodeArguments(MAIN), ...args, '--port', String(await freePort())], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, ...where, CKPT_HTTP_TOKEN: TOKEN, CKPT_TOKEN: 'a secret of the run' },
      })
      stop = async () => {
        if (child.exitCode !== null) return
        const exited = once(child, 'exit')
        child.kill('SIGTERM')
        await exited
      }
      let printed = ''
      child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text))
      await expect.poll(() => printed.includes('\n'), { timeout: 30_000 }).toBe(true)
      return (JSON.parse(printed) as { listening: string }).listening
    }
    return { origin: await start(), engine, restart: () => stop().then(start) }
  }

  it('shows checkpoints, a failed update and the dirty engine it leaves, the next one with its timeline, and both after a restart', async (context) => {
    if (noBrowser !== undefined) context.skip(noBrowser)
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 96 * 2 ** 20, 6n, 'live')
    const { origin, engine, restart } = await served(checkpoint.directory)
    const call = async (method: string, path: string, body?: unknown) => {
      const answer = await fetch(`${origin}/v1/checkpoints/step-1${path}`, {
        method,
        headers: { authorization: `Bearer ${TOKEN}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      })
      return answer.status
    }
    const browser = await startBrowser()
    ended.push(() => browser.close())
    const page = await browser.newPage()
    const problems: string[] = []
    page.on('pageerror', ({ message }) => problems.push(message))
    const sections = () => page.evaluate<Record<string, string>>(SECTIONS)
    const expectSoon = (of: () => Promise<unknown>) => expect.poll(of, { timeout: 20_000 })

    // Without the token the page shows nothing, and its data is refused.
    expect((await fetch(`${origin}/v1/live`)).status).toBe(401)
    await page.goto(`${origin}/live`)
    await expectSoon(() => page.locator('#connection').innerText()).toContain('a token is needed')
    await page.goto('about:blank')
    await page.goto(`${origin}/live#token=${encodeURIComponent(TOKEN)}`)
    await expectSoon(() => page.locator('#connection').innerText()).toBe('connected')
    expect(await sections()).toMatchObject({
      'Checkpoints on this rank': expect.stringContaining('none is registered') as string,
    })

    expect(await call('POST', '/files', { files: checkpoint.files })).toBe(200)
    await expectSoon(sections).toMatchObject({
      'Checkpoints on this rank': expect.stringMatching(/step-1\s+\d+\.\d MB/) as string,
    })
    expect(await call('POST', '/gather-metas')).toBe(200)
    await expectSoon(sections).toMatchObject({ Members: expect.stringContaining('HOST-') as string })

    expect(await call('POST', '/update', { timeout: 20 })).toBe(502)
    await expectSoon(sections).toMatchObject({
      Engines: expect.stringContaining('dirty') as string,
      History: expect.stringContaining('injected failure at bucket 2') as string,
    })
    expect(await page.locator('#engines td.bad').count()).toBe(1)

    // During an update it shows progress: the engine waits until the page has shown it.
    await engine.fault({ at: 'bucket', from: 1, action: 'hold' })
    const held = once(engine.process.child, 'message')
    const updated = call('POST', '/update', { timeout: 20 })
    await held
    await page.locator('#running progress').waitFor({ state: 'attached', timeout: 15_000 })
    engine.go()
    expect(await updated).toBe(200)
    await expectSoon(sections).toMatchObject({
      Engines: expect.stringContaining('clean') as string,
      History: expect.stringContaining('serves step-1') as string,
    })
    for (const stage of ['h2d', 'reload']) expect(await page.locator(`#running svg rect.${stage}`).count()).toBeGreaterThan(0)
    expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })

    expect(await call('DELETE', '')).toBe(200)
    await expectSoon(sections).toMatchObject({
      'Checkpoints on this rank': expect.stringContaining('none is registered') as string,
    })
    expect(problems).toEqual([])
    expect(await checkPage(page, 'live')).toEqual([])

    // The history is that of the process before, with its timeline; a file of something else stops the next one.
    await page.goto(`${await restart()}/live#token=${encodeURIComponent(TOKEN)}`)
    await expectSoon(sections).toMatchObject({
      History: expect.stringMatching(/serves step-1[^]*injected failure at bucket 2/) as string,
      Update: expect.stringContaining('the last successful one: step-1') as string,
    })
    expect(await page.locator('#running svg rect.reload').count()).toBeGreaterThan(0)
    expect(JSON.parse(readFileSync(join(directory, 'history-0.json'), 'utf8'))).toMatchObject({ schema: 1 })
    expect(problems).toEqual([])
  })
})
