import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checkPage, noBrowser, startBrowser, type Browser, type Page } from '@ckpt/testing/pages'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { renderHtml } from './html.ts'
import { engineRunFixture, resultFixture } from './result.fixture.ts'

/** A result with every case that a page must distinguish: two variants of one model, and a peer for comparison. */
function result() {
  const fixture = resultFixture()
  const [first] = fixture.runs
  const peer = { ...fixture.peers[0]!, model: first!.model, what: 'update, as it comes', ratioToLimit: 3.3 }
  const runs = (['kept', 'released'] as const).map((variant) => ({ ...first!, variant }))
  return { ...fixture, runs: [...runs, ...fixture.runs.slice(1), engineRunFixture()], peers: [...fixture.peers, peer] }
}

const BARS = `[...document.querySelector('figure svg.plot-wide').querySelectorAll('rect')].map((bar) => Math.round(bar.getBoundingClientRect().y))`

describe('the report in a browser', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-report-'))
  const file = join(directory, 'report.html')
  let browser: Browser | undefined
  let page: Page
  const problems: string[] = []

  beforeAll(async () => {
    writeFileSync(file, renderHtml(result()))
    if (noBrowser !== undefined) return
    browser = await startBrowser()
    page = await browser.newPage({ viewport: { width: 1280, height: 900 } })
    page.on('console', (message) => problems.push(message.text()))
    page.on('pageerror', (error) => problems.push(error.message))
    page.on('request', (request) => {
      if (request.url() !== `file://${file}`) problems.push(`asked for ${request.url()}`)
    })
    await page.goto(`file://${file}`)
  })
  afterAll(async () => {
    await browser?.close()
    rmSync(directory, { recursive: true, force: true })
  })
  beforeEach(({ skip }) => {
    if (noBrowser !== undefined) skip(noBrowser)
  })

  it('asks for nothing and says nothing on the console', () => {
    expect(problems).toEqual([])
  })

  it('says first how long, how near to the limit, how much faster, and that bytes were compared', async () => {
    const tiles = await page.locator('ul.lead li').allInnerTexts()
    expect(tiles.map((text) => text.split('\n')[0])).toEqual(['420.0 ms', '1.12 ×', '7.1 ×', 'every byte'])
    const box = await page.locator('figure').first().boundingBox()
    // Tiles and the first chart are on the first screen.
    expect(box!.y + box!.height).toBeLessThan(900)
  })

  it('draws each run and peer as a bar of its own', async () => {
    expect(new Set(await page.evaluate<number[]>(BARS)).size).toBe(5)
  })

  it('fits a phone, a tablet and a desktop, light and dark, with contrast AA and no empty rows', async () => {
    expect(await checkPage(page, 'report')).toEqual([])
  })

  it('leaves the raw figures out on paper', async () => {
    await page.emulateMedia({ media: 'print' })
    expect(await page.locator('details').isVisible()).toBe(false)
    expect(await page.locator('thead').first().isVisible()).toBe(true)
  })
})
