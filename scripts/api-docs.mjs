#!/usr/bin/env node
// Pages of every public package's API from its doc comments: node scripts/api-docs.mjs [--out DIR] [--check]
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Application, LogLevel } from 'typedoc'
import { ROOT } from './lib/root.mjs'
import { workspacePackages } from './lib/workspace.mjs'

const { values } = parseArgs({
  options: { out: { type: 'string' }, check: { type: 'boolean' } },
})
const scratch = values.check ? mkdtempSync(join(tmpdir(), 'ckpt-api-')) : undefined
const out = scratch ?? resolve(process.env.INIT_CWD ?? process.cwd(), values.out ?? join(ROOT, 'dist/api'))
const entryPoints = workspacePackages()
  .filter(({ dir, manifest }) => dir.startsWith('packages/') && manifest.private !== true)
  .flatMap(({ dir, manifest }) =>
    Object.values(manifest.exports ?? {}).flatMap((target) => {
      const source = target?.['@ckpt/source']
      return source === undefined || !existsSync(join(ROOT, dir, source)) ? [] : [join(ROOT, dir, source)]
    }),
  )
try {
  const app = await Application.bootstrap({
    entryPoints,
    name: 'ckpt',
    out,
    readme: join(ROOT, 'README.md'),
    tsconfig: join(ROOT, 'tsconfig.json'),
    excludePrivate: true,
    excludeInternal: true,
    disableSources: true,
    skipErrorChecking: true, // `npm run check` has the types
    logLevel: LogLevel.Warn,
    validation: { notExported: false, invalidLink: false, notDocumented: false },
    projectDocuments: readdirSync(join(ROOT, 'docs'))
      .filter((name) => name.endsWith('.md'))
      .map((name) => join(ROOT, 'docs', name)),
    highlightLanguages: ['bash', 'javascript', 'json', 'python', 'typescript'],
  })
  const project = await app.convert()
  if (project === undefined) throw new Error('typedoc could not read the sources')
  await app.generateDocs(project, out)
  if (app.logger.hasErrors()) process.exitCode = 1
  process.stdout.write(`${entryPoints.length} entry points${values.check ? '' : ` in ${out}`}\n`)
} finally {
  if (scratch !== undefined) rmSync(scratch, { recursive: true, force: true })
}
