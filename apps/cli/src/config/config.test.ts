import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createProgram, run } from '../run.ts'

const HERE = mkdtempSync(join(tmpdir(), 'ckpt-config-test-'))
const FILE = join(HERE, 'any.yaml')
const WEIGHTS = join(HERE, 'model.safetensors')
writeFileSync(WEIGHTS, '')
afterAll(() => rmSync(HERE, { recursive: true }))

/** The options with which a command would act, for a line and the text of a file. */
async function optionsOf(line: readonly string[], text: string): Promise<Record<string, unknown>> {
  writeFileSync(FILE, text)
  const program = createProgram()
  const command = program.commands.find((one) => one.name() === line[0])!
  let options: Record<string, unknown> | undefined
  command.action(() => void (options = command.opts()))
  await program.parseAsync([...line, '--config', FILE], { from: 'user' })
  return options!
}

const UPDATE = `
common:
  engine: vllm=http://127.0.0.1:{instance}000
  parallel-size: 4
  nproc: 8
update:
  checkpoint: [a.safetensors, b.safetensors]
  ring-size: 1GiB
  version: 7
  strategy: broadcast
  hold: true
serve:
  nproc: 2
doctor:
  require: gpus
`

describe('options from ckpt.yaml', () => {
  afterEach(() => vi.unstubAllEnvs())

  it('are those of the command, then the common ones, parsed as on the command line', async () => {
    expect(await optionsOf(['update'], UPDATE)).toMatchObject({
      engine: { kind: 'vllm', where: 'http://127.0.0.1:{instance}000' },
      checkpoint: ['a.safetensors', 'b.safetensors'],
      parallelSize: 4,
      nproc: 8,
      ringSize: 2 ** 30,
      version: '7',
      strategy: 'broadcast',
      hold: true,
      timeout: 120,
    })
    expect(await optionsOf(['serve'], UPDATE)).toMatchObject({ nproc: 2, parallelSize: 4 })
    expect(await optionsOf(['doctor'], UPDATE)).toMatchObject({ require: ['gpus'] })
    expect(await optionsOf(['plan'], UPDATE)).not.toHaveProperty('nproc')
  })

  it('come after the command line and the environment', async () => {
    vi.stubEnv('CKPT_ENGINE', 'sglang=http://b:1')
    expect(await optionsOf(['update', '--nproc', '1', '--ring-size', '2GiB'], UPDATE)).toMatchObject({
      nproc: 1,
      ringSize: 2 ** 31,
      engine: { kind: 'sglang', where: 'http://b:1' },
    })
    expect(await optionsOf(['update', '--engine', 'control=/c'], UPDATE)).toMatchObject({ engine: { kind: 'control' } })
  })

  it('leave alternatives to what is given more explicitly', async () => {
    const socket = await optionsOf(['update', '--engine-control', '/run/{rank}.sock'], UPDATE)
    expect([socket['engine'], socket['engineControl']]).toEqual([undefined, '/run/{rank}.sock'])
    const from = await optionsOf(['update', '--from', 'trainer=/t'], UPDATE)
    expect([from['from'], from['checkpoint']]).toEqual(['/t', undefined])
    expect((await optionsOf(['update', WEIGHTS], UPDATE))['checkpoint']).toBeUndefined()
  })

  it.each([
    ['an empty file', ''],
    ['empty sections', 'common:\nupdate:\n'],
  ])('may be none: %s', async (_, text) => {
    expect(await optionsOf(['update'], text)).toMatchObject({ strategy: 'auto', device: 'auto' })
  })

  it('fit the printed schema, and mistakes do not', async () => {
    let printed = ''
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => ((printed += String(text)), true))
    await run(['config'])
    vi.restoreAllMocks()
    const fits = new Ajv2020({ strict: false }).compile(JSON.parse(printed) as object)
    expect(fits({ common: { nproc: 8, engine: 'vllm=http://a' }, update: { strategy: 'p2p' }, watch: null })).toBe(true)
    expect(fits({ update: { strategy: 'fast' } })).toBe(false)
    expect(fits({ common: { nproc: 0 } })).toBe(false)
    expect(fits({ updat: {} })).toBe(false)
  })
})

describe('a mistake in ckpt.yaml', () => {
  let written: string
  beforeEach(() => {
    written = ''
    const keep = (text: string | Uint8Array) => ((written += String(text)), true)
    vi.spyOn(process.stderr, 'write').mockImplementation(keep)
  })
  afterEach(() => {
    vi.restoreAllMocks()
    vi.unstubAllEnvs()
    process.exitCode = undefined
  })

  it.each([
    ['a command that is unknown', 'update:\n  nproc: 2\nupdat:\n  nproc: 2\n', '3: updat: unknown key; expected common or'],
    ['an option that is unknown', 'update:\n  nproc: 2\n  stratgy: p2p\n', '3: update.stratgy: unknown key'],
    [
      'a word that is none of the choices',
      '\nupdate:\n  strategy: fast\n',
      '3: update.strategy: expected one of auto, broadcast',
    ],
    ['a number that is none', 'common:\n  nproc: many\n', '2: common.nproc: expected a whole number of at least 1'],
    ['a number that is too small', 'common:\n  nproc: 0\n', '2: common.nproc: expected a whole number of at least 1'],
    ['a size that is none', 'update:\n  ring-size: big\n', '2: update.ring-size: expected a size such as 64MiB'],
    ['an engine that is none', 'common:\n  engine: tgi=http://a\n', '2: common.engine: expected vllm=URL'],
    ['a port that is none', 'serve:\n  port: 99999\n', '2: serve.port: expected a port from 1 to 65535'],
    ['a flag that is no flag', 'update:\n  hold: sure\n', '2: update.hold: expected true or false'],
    ['a section that is a list', 'update:\n  - nproc\n', '1: update: expected keys and values'],
    ['a file that is a list', '- update\n', '1: expected keys and values'],
    ['an option that is not common', 'common:\n  strategy: auto\n', '2: common.strategy: unknown key'],
    ['a key twice', 'update:\n  nproc: 1\n  nproc: 2\n', '3: Map keys must be unique'],
    ['broken YAML', 'update:\n  nproc: [1\n', 'expected YAML'],
    ['another section’s mistake', 'update:\n  nproc: 1\nserve:\n  nproc: x\n', '4: serve.nproc: expected a whole number'],
  ])('is told with its line: %s', async (_, text, expected) => {
    writeFileSync(FILE, text)
    await run(['update', WEIGHTS, '--engine', 'control=/run/a.sock', '--config', FILE])
    expect(process.exitCode).toBe(2)
    expect(written).toMatch(/^ckpt: [^\n]+\n$/)
    expect(written).toContain(`${FILE}:`)
    expect(written).toContain(expected)
  })

  it('is found in the file that CKPT_CONFIG names, and in ckpt.yaml of the working directory', async () => {
    const named = join(HERE, 'ckpt.yaml')
    writeFileSync(named, 'update: 1\n')
    vi.stubEnv('CKPT_CONFIG', named)
    await run(['update', WEIGHTS])
    expect(written).toContain(`${named}:1: update: expected keys and values`)
    written = ''
    vi.stubEnv('CKPT_CONFIG', '')
    vi.stubEnv('INIT_CWD', HERE)
    await run(['update', WEIGHTS])
    expect(written).toContain('ckpt.yaml:1: update: expected keys and values')
    written = ''
    chmodSync(named, 0o666)
    await run(['update', WEIGHTS])
    expect(written).toContain('ckpt.yaml: other users can write this file')
    rmSync(named)
  })
})
