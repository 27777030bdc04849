#!/usr/bin/env node
// The public API of every package as a text file in its etc/ directory, so that changes to it show in reviews.
// node scripts/api-report.mjs: fails where a report differs; with --write: writes them.
import { CompilerState, Extractor, ExtractorConfig, ExtractorLogLevel } from '@microsoft/api-extractor'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { declarationOf, emitDeclarations } from './lib/declarations.mjs'
import { ROOT } from './lib/root.mjs'
import { workspacePackages } from './lib/workspace.mjs'

const write = process.argv.includes('--write')

const { root, error } = await emitDeclarations()
if (error !== undefined) {
  process.stderr.write(error)
  process.exit(1)
}
const entries = workspacePackages()
  .filter(({ dir, manifest }) => dir.startsWith('packages/') && manifest.private !== true)
  .flatMap(entryPoints)
const configs = entries.map(prepare)
const compilerState = CompilerState.create(configs[0], {
  additionalEntryPoints: configs.map((config) => config.mainEntryPointFilePath),
})

let wrong = 0
configs.forEach((config, index) => {
  const { dir, file } = entries[index]
  const problems = []
  Extractor.invoke(config, {
    compilerState,
    localBuild: true,
    messageCallback(message) {
      message.handled = true
      if (message.logLevel === ExtractorLogLevel.Error) problems.push(message.text)
    },
  })
  const fresh = readFileSync(join(config.reportTempFolder, file), 'utf8').replaceAll('\r\n', '\n')
  const committed = join(ROOT, dir, 'etc', file)
  const known = existsSync(committed) ? readFileSync(committed, 'utf8') : undefined
  if (write && known !== fresh) {
    mkdirSync(join(ROOT, dir, 'etc'), { recursive: true })
    writeFileSync(committed, fresh)
    process.stdout.write(`wrote ${dir}/etc/${file}\n`)
  } else if (known !== fresh) {
    const what =
      known === undefined ? 'is missing' : `does not match the sources; first difference: ${difference(known, fresh)}`
    problems.push(`${dir}/etc/${file} ${what}`)
  }
  for (const problem of problems) process.stderr.write(`${problem}\n`)
  wrong += problems.length
})
if (wrong > 0) process.stderr.write('`npm run api` writes the reports again\n')
process.exitCode = wrong > 0 ? 1 : 0

/** The package's entry points: `.` and every subpath with a source. */
function entryPoints({ dir, manifest }) {
  return Object.entries(manifest.exports)
    .filter(([, value]) => value?.['@ckpt/source'] !== undefined)
    .map(([key, value]) => {
      const suffix = key === '.' ? '' : `-${key.slice(2).replaceAll('/', '-')}`
      return { dir, file: `${basename(dir)}${suffix}.api.md`, source: value['@ckpt/source'] }
    })
}

function prepare({ dir, file, source }) {
  const folder = join(root, dir)
  mkdirSync(join(folder, 'etc'), { recursive: true })
  return ExtractorConfig.prepare({
    configObjectFullPath: join(folder, `api-extractor-${file}.json`),
    packageJsonFullPath: join(folder, 'package.json'),
    packageJson: JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')),
    projectFolderLookupToken: folder,
    configObject: {
      projectFolder: folder,
      mainEntryPointFilePath: join(folder, declarationOf(source)),
      newlineKind: 'lf',
      compiler: {
        overrideTsconfig: {
          compilerOptions: {
            target: 'ES2023',
            lib: ['ES2023', 'ESNext.Disposable'],
            module: 'NodeNext',
            moduleResolution: 'NodeNext',
            strict: true,
            skipLibCheck: true,
            types: ['node'],
            typeRoots: [join(ROOT, 'node_modules/@types')],
          },
        },
      },
      apiReport: {
        enabled: true,
        reportFileName: file,
        reportFolder: join(folder, 'etc'),
        reportTempFolder: join(folder, 'temp'),
      },
      docModel: { enabled: false },
      dtsRollup: { enabled: false },
      messages: {
        compilerMessageReporting: { default: { logLevel: 'error', addToApiReportFile: false } },
        // Release tags are not used here; the rest goes into the report, where it shows in reviews.
        extractorMessageReporting: {
          default: { logLevel: 'warning', addToApiReportFile: true },
          'ae-missing-release-tag': { logLevel: 'none' },
          'ae-undocumented': { logLevel: 'none' },
        },
        tsdocMessageReporting: { default: { logLevel: 'none' } },
      },
    },
  })
}

/** The first line that differs, as `committed → fresh`. */
function difference(known, fresh) {
  const [a, b] = [known.split('\n'), fresh.split('\n')]
  const index = a.findIndex((line, i) => line !== b[i])
  const line = index === -1 ? a.length : index
  return `line ${line + 1}: ${a[line] ?? '(end)'} → ${b[line] ?? '(end)'}`
}
