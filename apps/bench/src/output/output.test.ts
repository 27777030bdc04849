import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseHTML } from 'linkedom'
import { afterAll, describe, expect, it } from 'vitest'
import { outputFiles, writeFiles } from './files.ts'
import { renderHtml } from './html.ts'
import { renderJson } from './json.ts'
import { engineRunFixture, resultFixture } from './result.fixture.ts'
import { renderTables } from './table.ts'
import { writeTraces } from './traces.ts'

interface Node {
  readonly textContent: string
  getAttribute(name: string): string | null
  querySelectorAll(selector: string): Node[]
}

function parse(page: string): Node {
  const window: unknown = parseHTML(page)
  return (window as { readonly document: Node }).document
}

describe('renderHtml', () => {
  const page = renderHtml(resultFixture())
  const document = parse(page)
  const texts = (selector: string) => [...document.querySelectorAll(selector)].map(({ textContent }) => textContent)

  it('has every section, with the figures and the reasons', () => {
    expect(texts('h2')).toEqual([
      'Comparison with the limit',
      'Other systems in the same run',
      'Where the time went',
      'Bytes moved',
      'Machine and ceilings',
      'Not measured',
    ])
    const [glm] = texts('tbody tr')
    for (const figure of [
      'GLM-4.5-Air (BF16)',
      '420.0 ms',
      '375.0 ms',
      '1.12',
      'bytes',
      '400.0 ms',
      'verification adds +5.0 %',
      '3.47 s',
      '8xH800 TP8',
    ])
      expect(glm).toContain(figure)
    expect(texts('dd')).toContain('no NVIDIA GPU')
    expect(page).toContain('checkpoint-engine 0.4.1')
    expect(texts('.bad')).toEqual([])
  })

  it('escapes what it is given', () => {
    expect(texts('tbody small')[0]).toBe('2 of 46 layers & <half> the "width"')
    expect(page).not.toContain('<half>')
  })

  it('draws every span of every rank on the track of its stage', () => {
    const figures = [...document.querySelectorAll('figure svg')]
    // Each is drawn for wide and for narrow pages.
    expect(figures).toHaveLength(6)
    for (const figure of figures.slice(2)) {
      for (const stage of ['h2d', 'broadcast', 'reload'])
        expect(figure.querySelectorAll(`rect[fill="var(--${stage})"]`)).toHaveLength(2 * 40)
      for (const rect of figure.querySelectorAll('rect')) expect(Number(rect.getAttribute('width'))).toBeGreaterThanOrEqual(0)
      expect(figure.textContent).toContain('rank 1')
    }
  })

  it('is whole, and refers to nothing outside itself', () => {
    // Elements must close in the order in which they were opened, except those that HTML leaves open.
    const open: string[] = []
    for (const [, slash, name, self] of page
      .replace(/<style>[^]*?<\/style>/g, '')
      .matchAll(/<(\/?)([a-z][\w-]*)[^>]*?(\/?)>/gi)) {
      if (slash === '/') expect(open.pop()).toBe(name)
      else if (self !== '/' && name !== 'meta') open.push(name!)
    }
    expect(open).toEqual([])
    expect(document.querySelectorAll('script, link, img, iframe, object, use, image, a[href]')).toHaveLength(0)
    expect(page).not.toMatch(/\b(src|href)\s*=|url\(|@import|https?:/i)
  })

  it('says so when bytes were wrong', () => {
    const result = resultFixture()
    const [first, ...others] = result.runs
    const failed = parse(renderHtml({ ...result, runs: [{ ...first!, parametersEqual: false }, ...others] }))
    expect(failed.querySelectorAll('.bad').map(({ textContent }) => textContent)).toEqual([
      '1 of 2 runs did not give the engines the files’ bytes.',
      'FAILED',
    ])
  })

  it('leaves out what a result of an earlier version has not', () => {
    const result = resultFixture()
    const runs = result.runs.map(({ timelines: _, moved: __, ...run }) => run)
    const { gatherMetas: _, registration: __, ...bare } = { ...result, runs, peers: [], skipped: [] }
    expect([...parse(renderHtml(bare)).querySelectorAll('h2')].map(({ textContent }) => textContent)).toEqual([
      'Comparison with the limit',
      'Machine and ceilings',
    ])
  })

  it('compares each update with its own limit, in the tile, the bar, the whisker and the table', () => {
    const result = resultFixture()
    // Medians of times and of limits belong to different updates: 96.1 ms over 53.6 ms is not the middle ratio.
    const times = [84, 96.1, 120]
    const limits = [70, 53.6, 40]
    const ratios = times.map((time, index) => time / limits[index]!)
    const run = {
      ...result.runs[0]!,
      updateMs: { median: 96.1, min: 84, max: 120, samples: times },
      limit: { ...result.runs[0]!.limit, updateMs: 53.6 },
      ratioToLimit: ratios[1]!,
      ratios: { median: ratios[1]!, min: ratios[0]!, max: ratios[2]!, samples: ratios },
    }
    const skewed = { ...run, ratioToLimit: 1.23, ratios: { median: 1.23, min: 1.1, max: 1.79, samples: [1.1, 1.23, 1.79] } }
    for (const [one, ratio, limit] of [
      [run, '1.79', '53.6 ms'],
      [skewed, '1.23', '78.1 ms'],
    ] as const) {
      const shown = parse(renderHtml({ ...result, runs: [one], peers: [] }))
      const [time, ratioTile] = [...shown.querySelectorAll('ul.lead li')].map(({ textContent }) => textContent)
      expect(time).toContain('96.1 ms')
      expect(ratioTile).toContain(`${ratio} ×`)
      expect(ratioTile).toContain(`: ${limit},`)
      const [row] = [...shown.querySelectorAll('tbody tr')].map(({ textContent }) => textContent)
      expect(row).toContain(`${limit}for the update of 96.1 ms`)
      const [chart] = [...shown.querySelectorAll('figure svg')]
      expect(chart!.textContent).toContain(ratio)
      // Bar and whisker have one scale: the bar ends between the ticks of the fastest and the slowest.
      const [bar] = [...chart!.querySelectorAll('rect')].map(
        (rect) => Number(rect.getAttribute('x')) + Number(rect.getAttribute('width')),
      )
      const [[fast], [slow]] = [...chart!.querySelectorAll('[data-mark="tick"]')].map((group) =>
        [...group.querySelectorAll('line')].map((line) => Number(line.getAttribute('x1'))),
      ) as [number[], number[]]
      const scale = (bar! - Number(chart!.querySelectorAll('rect')[0]!.getAttribute('x'))) / Number(ratio)
      expect((fast! - bar!) / scale + Number(ratio)).toBeCloseTo(one.ratios.min, 1)
      expect((slow! - bar!) / scale + Number(ratio)).toBeCloseTo(one.ratios.max, 1)
    }
  })

  it('has no track for a stage that no rank had, and no chart without runs', () => {
    const result = resultFixture()
    const timelines = result.runs[0]!.timelines!.map((one) => ({ ...one, spans: one.spans.filter(([stage]) => stage !== 1) }))
    const page = parse(renderHtml({ ...result, runs: [{ ...result.runs[0]!, timelines }] }))
    const charts = [...page.querySelectorAll('figure svg')].slice(2)
    for (const { textContent } of charts) {
      expect(textContent).toContain('reload')
      expect(textContent).not.toContain('broadcast')
    }
    expect(parse(renderHtml({ ...result, runs: [] })).querySelectorAll('svg')).toHaveLength(0)
  })

  it('stays below 2 MB with thousands of spans in dozens of runs', () => {
    const result = resultFixture(2000)
    const runs = Array.from({ length: 24 }, (_, index) => result.runs[index % 2]!)
    expect(Buffer.byteLength(renderHtml({ ...result, runs }))).toBeLessThan(2e6)
  })
})

describe('renderJson', () => {
  it('gives back the same result, a span a line', () => {
    const result = resultFixture()
    const text = renderJson(result)
    expect(JSON.parse(text)).toEqual(result)
    expect(text).toContain('\n            [0, 1, 1, 3002, 3003],\n')
  })

  it('leaves strings that look like rows of numbers alone', () => {
    const result = { ...resultFixture(), startedAt: '[\n  1,\n  2 ]' }
    expect(JSON.parse(renderJson(result))).toEqual(result)
  })
})

describe('runs of a real engine', () => {
  const figures = ['vllm 0.26.0', '210.0 ms', '5.50 s', '240.0 ms', '1.50', '250.0 ms in updates of 215.0 ms', 'opaque 1.00 GB']
  const result = { ...resultFixture(), runs: [engineRunFixture()] }

  it('are shown alone, with the pause that requests saw', () => {
    const page = parse(renderHtml(result))
    const [row] = page.querySelectorAll('tbody tr').map(({ textContent }) => textContent)
    for (const figure of figures) expect(row!.replaceAll(/\s+/g, ' ')).toContain(figure)
    expect(page.querySelectorAll('h2').map(({ textContent }) => textContent)).toContain('Real engines')
    expect(page.querySelectorAll('.lead').map(({ textContent }) => textContent)[0]).toContain('every answer')
    const table = renderTables(result).replaceAll(/[\s│]+/g, ' ')
    for (const figure of ['vllm 0.26.0', '210.0 ms', '5.50 s', '250.0 ms', '1.50', 'bytes, answers equal']) {
      expect(table).toContain(figure)
    }
  })

  it('stand beside runs of the reference engine, and say where an answer was wrong', () => {
    const both = { ...result, runs: [...resultFixture().runs, { ...engineRunFixture(), answersEqual: false }] }
    expect(parse(renderHtml(both)).querySelectorAll('.bad')).toHaveLength(2)
    expect(renderTables(both)).toContain('FAILED')
  })
})

it('writeTraces writes one run to the file itself and several to a file each', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-traces-'))
  try {
    const path = join(directory, 'trace.json')
    const { runs } = resultFixture()
    expect(await writeTraces(path, runs.slice(0, 1))).toEqual([path])
    const paths = await writeTraces(path, [...runs, runs[1]!])
    expect(paths.map((one) => basename(one))).toEqual([
      'trace.glm-4.5-air.json',
      'trace.kimi-k2-2.json',
      'trace.kimi-k2-3.json',
    ])
    for (const one of [path, ...paths]) {
      const { traceEvents } = JSON.parse(readFileSync(one, 'utf8')) as { traceEvents: { ph: string; ts?: number }[] }
      expect(traceEvents.filter(({ ph }) => ph === 'X')).toHaveLength(2 * (3 * 40 + 6))
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})

describe('renderTables', () => {
  it('names the order of H2D and broadcasts where they share links, and only there', () => {
    const result = resultFixture()
    const order = (linksShared: boolean) =>
      ({ name: 'alternating', chunkBytes: 1, linksShared, reason: 'the fastest of 5 orders', measured: [] }) as const
    const text = (linksShared: boolean) =>
      renderTables({ ...result, runs: result.runs.map((run) => ({ ...run, order: order(linksShared) })) })
    expect(text(true)).toContain(`${result.runs[0]!.title}: alternating: the fastest of 5 orders`)
    expect(text(false)).not.toContain('alternating')
    expect(renderJson({ ...result, runs: [{ ...result.runs[0]!, order: order(true) }] })).toContain('"linksShared": true')
  })
})

describe('outputFiles', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-bench-output-'))
  afterAll(() => rmSync(directory, { recursive: true }))

  it('go where the user is unless named, and say where', () => {
    const files = outputFiles(directory, { json: 'elsewhere/mine.json' })
    expect(files).toEqual({
      report: join(directory, 'ckpt-bench/report.html'),
      json: join(directory, 'elsewhere/mine.json'),
    })
    const said = writeFiles(files, resultFixture(1))
    for (const path of Object.values(files)) expect(said).toContain(path)
    expect(readFileSync(files.report, 'utf8')).toContain('GLM-4.5-Air')
    expect(JSON.parse(readFileSync(files.json, 'utf8'))).toMatchObject({ schema: 2 })
  })

  it('fail before anything is measured where they cannot be written', () => {
    writeFileSync(join(directory, 'file'), '')
    expect(() => outputFiles(directory, { report: 'file/report.html' })).toThrow(/file/)
  })
})
