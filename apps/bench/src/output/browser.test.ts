import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium, type Browser, type Page } from 'playwright-core'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { renderHtml } from './html.ts'
import { resultFixture } from './result.fixture.ts'

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/opt/google/chrome/chrome']
const executablePath = [process.env['CKPT_BROWSER'] ?? '', ...PLACES].find((path) => path !== '' && existsSync(path))
const noBrowser = executablePath === undefined ? 'no browser: install chromium, or name one by CKPT_BROWSER' : undefined

/** A result with every case that a page must distinguish: two variants of one model, and a peer for comparison. */
function result() {
  const fixture = resultFixture()
  const [first] = fixture.runs
  const peer = { ...fixture.peers[0]!, model: first!.model, what: 'update, as it comes', ratioToLimit: 3.3 }
  const runs = (['kept', 'released'] as const).map((variant) => ({ ...first!, variant }))
  return { ...fixture, runs: [...runs, ...fixture.runs.slice(1)], peers: [...fixture.peers, peer] }
}

// Code for the page is text: this program does not have a browser's types.

/** Contrast of text and page as WCAG 2 defines it (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio). */
const CONTRAST = `(selector) => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map((part) => {
      const value = Number(part) / 255
      return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const text = luminance(getComputedStyle(document.querySelector(selector)).color)
  const ground = luminance(getComputedStyle(document.body).backgroundColor)
  return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05)
}`
const BARS = `[...document.querySelector('figure').querySelectorAll('rect')].map((bar) => Math.round(bar.getBoundingClientRect().y))`
const CLIPPED = `[...document.querySelectorAll('figure svg')].flatMap((chart) => {
  const outer = chart.getBoundingClientRect()
  return [...chart.querySelectorAll('text')].flatMap((text) => {
    const inner = text.getBoundingClientRect()
    return inner.left < outer.left - 1 || inner.right > outer.right + 1 ? [text.textContent] : []
  })
})`

function contrast(page: Page, selector: string): Promise<number> {
  return page.evaluate<number>(`(${CONTRAST})(${JSON.stringify(selector)})`)
}

describe('the report in a browser', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-report-'))
  const file = join(directory, 'report.html')
  let browser: Browser | undefined
  let page: Page
  const problems: string[] = []

  beforeAll(async () => {
    writeFileSync(file, renderHtml(result()))
    if (executablePath === undefined) return
    browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] })
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

  it('draws each run and peer as a bar of its own, with labels that fit', async () => {
    expect(new Set(await page.evaluate<number[]>(BARS)).size).toBe(4)
    const clipped = await page.evaluate<string[]>(CLIPPED)
    expect(clipped).toEqual([])
  })

  it.each([1280, 700])('does not scroll sideways at %d pixels', async (width) => {
    await page.setViewportSize({ width, height: 900 })
    expect(await page.evaluate<number>('document.documentElement.scrollWidth')).toBeLessThanOrEqual(width)
  })

  it.each(['light', 'dark', 'print'] as const)('is readable on %s', async (kind) => {
    if (kind === 'print') await page.emulateMedia({ media: 'print' })
    else await page.emulateMedia({ media: 'screen', colorScheme: kind })
    for (const selector of ['h1', 'td', 'small', '.good', 'figure text', 'ul.lead b', 'ul.lead span']) {
      expect(await contrast(page, selector), selector).toBeGreaterThanOrEqual(4.5)
    }
    expect(await page.locator('details').isVisible()).toBe(kind !== 'print')
  })
})
