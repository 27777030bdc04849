/**
 * The public API of every package as a text file in its etc/ directory, so that changes to it show in reviews. Fails where a report differs
 * from what the build declares; with --write writes the reports.
 */
import { CompilerState, Extractor, ExtractorConfig, ExtractorLogLevel } from '@microsoft/api-extractor'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { ROOT } from './lib/root.mjs'
import { turboBuild } from './lib/turbo.ts'
import { type Manifest, workspacePackages } from './lib/workspace.mjs'

/** An entry point of a package, and the file name of its report. */
interface Entry {
  readonly dir: string
  readonly file: string
  readonly types: string
}

const write = process.argv.includes('--write')
mkdirSync(join(ROOT, 'build/api'), { recursive: true })
const built = await turboBuild()
if (built.code !== 0) {
  process.stderr.write(built.output)
  process.exit(1)
}
const entries = workspacePackages()
  .filter(({ dir, manifest }) => dir.startsWith('packages/') && manifest.private !== true)
  .flatMap(({ dir, manifest }) => entryPoints(dir, manifest))
const prepared = entries.map((entry) => ({ entry, config: prepare(entry) }))
const compilerState = CompilerState.create(prepared[0]!.config, {
  additionalEntryPoints: prepared.map(({ config }) => config.mainEntryPointFilePath),
})
const problems = prepared.flatMap(({ entry, config }) => compare(entry, config))
for (const problem of problems) process.stderr.write(`${problem}\n`)
if (problems.length > 0) process.stderr.write('`npm run api` writes the reports again\n')
process.exitCode = problems.length > 0 ? 1 : 0

/** Makes one report and compares it with the one that is committed, or writes it; what is wrong. */
function compare({ dir, file }: Entry, config: ExtractorConfig): string[] {
  const errors: string[] = []
  Extractor.invoke(config, {
    compilerState,
    localBuild: true,
    messageCallback(message) {
      message.handled = true
      if (message.logLevel === ExtractorLogLevel.Error) errors.push(message.text)
    },
  })
  const fresh = readFileSync(join(config.reportTempFolder, file), 'utf8').replaceAll('\r\n', '\n')
  const committed = join(ROOT, dir, 'etc', file)
  const known = existsSync(committed) ? readFileSync(committed, 'utf8') : undefined
  if (known === fresh) return errors
  if (write) {
    mkdirSync(join(ROOT, dir, 'etc'), { recursive: true })
    writeFileSync(committed, fresh)
    process.stdout.write(`wrote ${dir}/etc/${file}\n`)
    return errors
  }
  const changes = spawnSync('git', ['diff', '--no-index', '--unified=0', committed, join(config.reportTempFolder, file)])
  return [...errors, `${dir}/etc/${file} does not match the sources:\n${changes.stdout.toString()}`]
}

/** The package's entry points: `.` and every subpath with declarations. */
function entryPoints(dir: string, { exports = {} }: Manifest): Entry[] {
  return Object.entries(exports).flatMap(([key, value]) => {
    if (typeof value !== 'object' || value?.types === undefined) return []
    const suffix = key === '.' ? '' : `-${key.slice(2).replaceAll('/', '-')}`
    return [{ dir, file: `${basename(dir)}${suffix}.api.md`, types: value.types }]
  })
}

function prepare({ dir, file, types }: Entry): ExtractorConfig {
  const folder = join(ROOT, dir)
  return ExtractorConfig.prepare({
    configObjectFullPath: join(folder, `api-extractor-${file}.json`),
    packageJsonFullPath: join(folder, 'package.json'),
    projectFolderLookupToken: folder,
    configObject: {
      projectFolder: folder,
      mainEntryPointFilePath: join(folder, types),
      newlineKind: 'lf',
      compiler: {
        overrideTsconfig: {
          extends: join(ROOT, 'tsconfig.base.json'),
          compilerOptions: { customConditions: [], typeRoots: [join(ROOT, 'node_modules/@types')] },
          files: [join(folder, types)],
        },
      },
      apiReport: {
        enabled: true,
        reportFileName: file,
        // Both outside the tree: the extractor would write what differs.
        reportFolder: join(ROOT, 'build/api'),
        reportTempFolder: join(ROOT, 'build/api/fresh'),
      },
      docModel: { enabled: false },
      dtsRollup: { enabled: false },
      messages: {
        compilerMessageReporting: { default: { logLevel: ExtractorLogLevel.Error, addToApiReportFile: false } },
        // Release tags are not used here; the rest goes into the report, where it shows in reviews.
        extractorMessageReporting: {
          default: { logLevel: ExtractorLogLevel.Warning, addToApiReportFile: true },
          'ae-missing-release-tag': { logLevel: ExtractorLogLevel.None },
          'ae-undocumented': { logLevel: ExtractorLogLevel.None },
        },
        tsdocMessageReporting: { default: { logLevel: ExtractorLogLevel.None } },
      },
    },
  })
}
