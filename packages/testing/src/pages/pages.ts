/**
 * Checks of pages in Chromium: widths, contrast and other rules of accessibility, and screenshots. Code for a page is text, because
 * these programs do not have a browser's types.
 *
 * @packageDocumentation
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { chromium, type Browser, type Page } from 'playwright-core'

export type { Browser, Page } from 'playwright-core'

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/opt/google/chrome/chrome']

/** A phone, a tablet and a desktop, in pixels. */
export const PAGE_WIDTHS = [400, 768, 1440] as const

/** Path of a browser; undefined if there is none. */
export const browserPath = [process.env['CKPT_BROWSER'] ?? '', ...PLACES].find((path) => path !== '' && existsSync(path))
/** Reason to skip tests that need a browser; undefined if there is one. */
export const noBrowser = browserPath === undefined ? 'no browser: install chromium, or name one by CKPT_BROWSER' : undefined

/** Starts the browser. @throws Error if there is none. */
export async function startBrowser(): Promise<Browser> {
  if (browserPath === undefined) throw new Error(noBrowser)
  return chromium.launch({ executablePath: browserPath, args: ['--no-sandbox', '--disable-gpu'] })
}

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
/** Rules of WCAG 2.2, levels A and AA. */
const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']

interface AxeResult {
  readonly violations: readonly {
    readonly id: string
    readonly nodes: readonly { readonly target: readonly string[]; readonly failureSummary?: string }[]
  }[]
}

/** Elements wider than their place: the page scrolls sideways, part of them is hidden, or they scroll by themselves. */
const CLIPPED = `(() => {
  const shown = (one) => one.getClientRects().length > 0
  const name = (one) => one.tagName.toLowerCase() + (one.id ? '#' + one.id : '') + ' ' + (one.textContent ?? '').trim().slice(0, 40)
  const wide = document.documentElement.scrollWidth > innerWidth ? ['the page: ' + document.documentElement.scrollWidth + ' px'] : []
  const boxes = [...document.querySelectorAll('body *:not(svg *, pre, pre *)')].filter((one) => shown(one) &&
    (one.getBoundingClientRect().right > innerWidth + 1 || (one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1)))
  const texts = [...document.querySelectorAll('svg')].filter(shown).flatMap((chart) => {
    const outer = chart.getBoundingClientRect()
    return [...chart.querySelectorAll('text')].filter((text) => {
      const inner = text.getBoundingClientRect()
      return inner.left < outer.left - 1 || inner.right > outer.right + 1
    })
  })
  return [...wide, ...[...boxes, ...texts].map((one) => name(one) + ' at ' + Math.round(one.getBoundingClientRect().left) + ' to ' + Math.round(one.getBoundingClientRect().right) + ' px')]
})()`
const SMALL = `[...document.querySelectorAll('svg text')].flatMap((text) => {
  const { height } = text.getBoundingClientRect()
  return height > 0 && height < 9 ? [text.textContent + ': ' + height.toFixed(1) + ' px'] : []
})`
const EMPTY = `[...document.querySelectorAll('tbody tr, dl, ul, table')].filter((one) => (one.textContent ?? '').trim() === '').map((one) => one.outerHTML)`

/** Problems of a page at one width and colour scheme; empty if there are none. */
export async function pageProblems(page: Page): Promise<string[]> {
  const clipped = await page.evaluate<string[]>(CLIPPED)
  const small = await page.evaluate<string[]>(SMALL)
  const empty = await page.evaluate<string[]>(EMPTY)
  if (!(await page.evaluate<boolean>("'axe' in window")))
    await page.evaluate(`{ const module = undefined; const define = undefined; ${AXE} }`)
  const only = JSON.stringify({ runOnly: { type: 'tag', values: RULES }, resultTypes: ['violations'] })
  const { violations } = await page.evaluate<AxeResult>(`axe.run(document, ${only})`)
  return [
    ...clipped.map((text) => `clipped: ${text}`),
    ...small.map((text) => `too small: ${text}`),
    ...empty.map((text) => `empty: ${text}`),
    ...violations.flatMap(({ id, nodes }) =>
      nodes.map(({ target, failureSummary }) => `${id}: ${target.join(' ')}: ${failureSummary?.split('\n')[1]?.trim()}`),
    ),
  ]
}

/**
 * Looks at a page at every width of {@link PAGE_WIDTHS}, light and dark, and returns what is wrong, each with its width and scheme.
 * Pictures go to the folder that CKPT_PICTURES names, as `NAME-WIDTH-SCHEME.png`.
 */
export async function checkPage(page: Page, name: string): Promise<string[]> {
  const folder = process.env['CKPT_PICTURES']
  const problems: string[] = []
  for (const width of PAGE_WIDTHS) {
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.setViewportSize({ width, height: 900 })
      await page.emulateMedia({ media: 'screen', colorScheme })
      problems.push(...(await pageProblems(page)).map((text) => `${width} px, ${colorScheme}: ${text}`))
      if (folder === undefined) continue
      mkdirSync(folder, { recursive: true })
      await page.screenshot({ path: join(folder, `${name}-${width}-${colorScheme}.png`), fullPage: true })
    }
  }
  return problems
}
