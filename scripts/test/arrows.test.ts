import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { expect, it } from 'vitest'
import { ROOT } from '../lib/root.mjs'
import { fixture } from './fixture.ts'

const manifest = (name: string) =>
  JSON.stringify({ name: `@ckpt/${name}`, type: 'module', exports: { '.': { '@ckpt/source': './src/index.ts' } } })

const CLEAN = {
  'tsconfig.json': '{}',
  'package.json': '{ "name": "fixture" }',
  'packages/contract/package.json': manifest('contract'),
  'packages/contract/src/index.ts': 'export const contract = 1\n',
  'packages/planner/package.json': manifest('planner'),
  'packages/planner/src/index.ts': 'export const planner = 1\n',
  'packages/safetensors/package.json': manifest('safetensors'),
  'packages/safetensors/src/index.ts': 'export const safetensors = 1\n',
  'packages/memory/package.json': manifest('memory'),
  'packages/memory/src/index.ts':
    "import { contract } from '@ckpt/contract'\nimport { safetensors } from '@ckpt/safetensors'\nexport const memory = [contract, safetensors]\n",
  'apps/cli/package.json': manifest('cli'),
  'apps/cli/src/index.ts': 'export const cli = 1\n',
}

/** Runs the repository's own rules over a small repository in which every package can find every other. */
function arrows(more: Record<string, string>): { status: number | null; output: string } {
  using files = fixture({ ...CLEAN, ...more })
  mkdirSync(join(files.path, 'node_modules/@ckpt'), { recursive: true })
  for (const path of Object.keys(CLEAN).filter((path) => /^\w+\/\w+\/package[.]json$/.test(path))) {
    symlinkSync(join(files.path, dirname(path)), join(files.path, 'node_modules/@ckpt', basename(dirname(path))))
  }
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      join(ROOT, 'node_modules/dependency-cruiser/bin/dependency-cruise.mjs'),
      '--config',
      join(ROOT, '.dependency-cruiser.cjs'),
      'packages',
      'apps',
    ],
    { cwd: files.path, encoding: 'utf8' },
  )
  return { status, output: stdout + stderr }
}

it('lets arrows pass', () => {
  const { status, output } = arrows({})
  expect(output).toContain('no dependency violations')
  expect(status).toBe(0)
})

it.each([
  ['a package it may not import', 'packages/memory/src/x.ts', "import '@ckpt/planner'\n", 'arrow-packages/memory'],
  [
    'a type of a package it may not import',
    'packages/memory/src/x.ts',
    "import type { P } from '@ckpt/planner'\nexport type Q = P\n",
    'arrow-packages/memory',
  ],
  ['an app', 'packages/planner/src/x.ts', "import '@ckpt/cli'\n", 'nothing-imports-apps'],
  ['a path into another package', 'packages/memory/src/x.ts', "import '../../safetensors/src/index.ts'\n", 'no-reaching-in'],
  ['itself in a circle', 'packages/planner/src/x.ts', "import './y.ts'\n", 'no-cycles'],
  ['what is not there', 'packages/planner/src/x.ts', "import 'not-installed'\n", 'no-unresolvable'],
  ['anything in a package without arrows', 'packages/newcomer/src/x.ts', "import '@ckpt/contract'\n", 'package-without-arrows'],
])('fails on an import of %s', (_what, file, text, rule) => {
  const { status, output } = arrows({
    'packages/planner/src/x.ts': '',
    'packages/planner/src/y.ts': "import './x.ts'\n",
    [file]: text,
  })
  expect(output).toContain(rule)
  expect(status).not.toBe(0)
})

it('lets tests import more', () => {
  const { status } = arrows({ 'packages/memory/src/x.test.ts': "import '@ckpt/planner'\n" })
  expect(status).toBe(0)
})

interface Rule {
  readonly name: string
  readonly to: { readonly pathNot?: readonly string[] }
}

it('are those of the table in docs/architecture.md', () => {
  const { forbidden } = createRequire(import.meta.url)(join(ROOT, '.dependency-cruiser.cjs')) as {
    readonly forbidden: readonly Rule[]
  }
  const everywhere = ['contract', 'utils']
  const rules = forbidden.flatMap(({ name, to }): [string, string[]][] => {
    if (!name.startsWith('arrow-')) return []
    const own = name.slice('arrow-'.length)
    const allowed = to.pathNot!.map((path) => path.replace(/^\^|\/$/g, '')).filter((path) => path !== own)
    return [
      [
        own,
        allowed
          .map(inTable)
          .filter((path) => !everywhere.includes(path))
          .sort(),
      ],
    ]
  })
  const rows = readFileSync(join(ROOT, 'docs/architecture.md'), 'utf8').matchAll(
    /^\| `((?:packages|native|apps)\/[^`]+)` +\|[^|]*\| ([^|]*?) +\|$/gm,
  )
  const table = [...rows].map(([, own, imports]): [string, string[]] => [
    own!,
    imports === '–' ? [] : imports!.replace('\\*', '*').split(', ').sort(),
  ])
  const byName = ([a]: [string, string[]], [b]: [string, string[]]) => (a < b ? -1 : 1)
  expect(table.sort(byName)).toEqual(rules.sort(byName))
})

/** An expression of the rules in the table's words. */
function inTable(path: string): string {
  return path.replace('[^/]+', '*').replace(/^(packages|apps)\/|^native\/(?=common)/, '')
}

it('of Python are those of their table in docs/architecture.md', () => {
  const project = readFileSync(join(ROOT, 'packages/python/pyproject.toml'), 'utf8')
  const layers = [...project.matchAll(/^layers = (\[.+\])$/gm)].flatMap(([, list]) => JSON.parse(list!) as string[])
  const [, section] = /^### Python\n([^]*?)(?=^#)/m.exec(readFileSync(join(ROOT, 'docs/architecture.md'), 'utf8'))!
  const rows = section!.matchAll(/^\| (`[^|]+?) +\|/gm)
  const table = [...rows].map(([, names]) => names!.replaceAll('`', '').split(', ').join(' | '))
  expect(table).toEqual(layers)
})
