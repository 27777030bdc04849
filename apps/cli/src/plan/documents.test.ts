import { readFileSync, readdirSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { describePublished, publishedScenarios } from './published.ts'
import { describeValidation, validate } from './validate.ts'

const DOCS = new URL('../../../../docs/', import.meta.url)

/** The rows of all Markdown tables in a text, without whitespace around cells. */
function rows(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('|') && !/^[|\s:-]+$/.test(line))
    .map((line) => line.replace(/\s*\|\s*/g, '|'))
}

const written = (document: string) => rows(readFileSync(new URL(document, DOCS), 'utf8'))
const published = (engine: string) => rows(describePublished(publishedScenarios(engine), true))
const validated = (file: string) => rows(describeValidation(validate(new URL(file, DOCS).pathname), true))

describe('tables in the documents', () => {
  it('are what the simulator says of the published rows today', { timeout: 180_000 }, () => {
    const vllm = published('vllm')
    expect(vllm).toHaveLength(7)
    expect(written('performance.md')).toEqual(expect.arrayContaining(vllm))
    expect(written('simulator.md')).toEqual(expect.arrayContaining([...vllm, ...published('reference')]))
  })

  const measured = readdirSync(new URL('performance', DOCS)).filter((name) => /^h200-|-validation[.]json$/.test(name))
  it.each(measured)('are what it says of %s today', (name) => {
    const found = validated(`performance/${name}`)
    expect(found.length).toBeGreaterThan(1)
    expect(written('simulator.md')).toEqual(expect.arrayContaining(found))
  })
})
