import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { describeInputs } from '../lib/inputs.mjs'
import { ROOT } from '../lib/root.mjs'
import { addons, forgetInputs } from '../lib/stamp.mjs'

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'ckpt-inputs-'))
})
afterEach(() => {
  rmSync(root, { recursive: true, force: true })
})

const INPUTS = [
  { name: 'header', header: 'ckpt-test/some.h', folders: ['$CKPT_TEST_HOME/include'] },
  { name: 'program', program: 'ckpt-test-program', folders: ['$CKPT_TEST_HOME/bin'] },
]
const PLACES = ['a/include', 'b', 'c', 'home/include', 'd/bin', 'home/bin'] as const

describe('the text that stands for what a build finds', () => {
  const step = fc.record({ place: fc.constantFrom(...PLACES), what: fc.constantFrom('add', 'remove', 'replace') })

  it('changes whenever an input comes, goes or is replaced where a build would take it, and only then', () => {
    const env = {
      CMAKE_PREFIX_PATH: join(root, 'a'),
      CPATH: join(root, 'b'),
      CPLUS_INCLUDE_PATH: join(root, 'c'),
      CKPT_TEST_HOME: join(root, 'home'),
      PATH: join(root, 'd/bin'),
    }
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        rmSync(root, { recursive: true, force: true })
        const there = new Map<string, number>()
        let version = 1
        // The first place that has it, in the order in which a build looks.
        const taken = () => [
          ['home/include', 'a/include', 'b', 'c'].find((place) => there.has(place)),
          ['d/bin', 'home/bin'].find((place) => there.has(place)),
        ]
        const state = () => JSON.stringify(taken().map((place) => [place, place && there.get(place)]))
        const seen = new Map([[state(), describeInputs(INPUTS, env)]])
        for (const { place, what } of steps) {
          const file = join(root, place, place.endsWith('bin') ? 'ckpt-test-program' : 'ckpt-test/some.h')
          if (what === 'remove') {
            rmSync(file, { force: true })
            there.delete(place)
          } else if (what === 'add' ? !there.has(place) : there.has(place)) {
            mkdirSync(join(file, '..'), { recursive: true })
            writeFileSync(file, 'x')
            // As if it had been installed at another time.
            utimesSync(file, 1_000_000 + version, 1_000_000 + version)
            there.set(place, version++)
          }
          const text = describeInputs(INPUTS, env)
          const known = seen.get(state())
          if (known === undefined) expect([...seen.values()]).not.toContain(text)
          else expect(text).toBe(known)
          seen.set(state(), text)
        }
      }),
      { numRuns: 200 },
    )
  })

  it('is part of the key of the addons that have inputs', () => {
    const before = process.env['CPATH']
    const keys = () => new Map(addons().map(({ name, key }) => [name, key]))
    const old = keys()
    mkdirSync(join(root, 'infiniband'))
    writeFileSync(join(root, 'infiniband/verbs.h'), '')
    process.env['CPATH'] = root
    try {
      const now = keys()
      expect(now.get('@ckpt/rdma-core-bindings')).not.toBe(old.get('@ckpt/rdma-core-bindings'))
      expect(now.get('@ckpt/native-host')).toBe(old.get('@ckpt/native-host'))
    } finally {
      if (before === undefined) delete process.env['CPATH']
      else process.env['CPATH'] = before
    }
  })
})

describe('a real build', () => {
  it('without the headers says so, and one after they have come has them', { timeout: 600_000 }, (context) => {
    const described = addons().find(({ name }) => name === '@ckpt/rdma-core-bindings')!.inputs
    if (described.includes('absent')) context.skip(`libibverbs' headers are not here: ${described}`)
    for (const name of ['common', 'rdma']) {
      cpSync(join(ROOT, 'native', name), join(root, name), {
        recursive: true,
        filter: (path) => !/[/](build|node_modules)$/.test(path),
      })
    }
    symlinkSync(join(ROOT, 'native/rdma/node_modules'), join(root, 'rdma/node_modules'))
    const tool = createRequire(join(ROOT, 'native/rdma/package.json')).resolve('cmake-js/bin/cmake-js')
    const build = (...more: string[]) =>
      execFileSync(process.execPath, [tool, 'build', '--silent', ...more], { cwd: join(root, 'rdma'), stdio: 'pipe' })
    const info = () => {
      const program = `console.log(JSON.stringify(require('./build/Release/ckpt_rdma.node').buildInfo))`
      return JSON.parse(
        execFileSync(process.execPath, ['-e', program], { cwd: join(root, 'rdma'), encoding: 'utf8' }),
      ) as object
    }
    build('--CDCMAKE_IGNORE_PATH=/usr/include;/usr/local/include')
    expect(info()).toEqual({ with: [], without: ['libibverbs'] })
    // What `npm run setup` does where the inputs have changed.
    forgetInputs('rdma', root)
    build()
    expect(info()).toEqual({ with: ['libibverbs'], without: [] })
  })
})
