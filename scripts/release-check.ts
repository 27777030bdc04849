/** Everything a release does but publishing: `npm run release:check [-- --only STEP,…] [--out DIR] [--keep]` */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { packageManagerEnv } from './lib/pnpm.mjs'
import { run } from './lib/process.mjs'
import { ROOT, sourceArguments } from './lib/root.mjs'
import { turboBuild } from './lib/turbo.ts'
import { pythonLacks } from './lib/python.ts'
import { checkWheel } from './lib/wheel-check.ts'
import { buildWheels } from './lib/wheels.ts'
import { audit, type Finding } from './release/audit.ts'
import { lintTarball } from './release/lint.ts'
import { packAll, type Packed, publicPackages } from './release/pack.ts'

const STEPS = ['build', 'pack', 'lint', 'install', 'readme', 'sbom', 'audit', 'wheels', 'source', 'publish']
const { values } = parseArgs({
  options: { only: { type: 'string' }, out: { type: 'string' }, keep: { type: 'boolean' }, help: { type: 'boolean' } },
})
const steps = values.only?.split(',') ?? STEPS
if (values.help || steps.some((step) => !STEPS.includes(step))) {
  process.stdout.write(`usage: npm run release:check -- [--only ${STEPS.join(',')}] [--out DIR] [--keep]\n`)
  process.exit(values.help ? 0 : 2)
}

const scratch = mkdtempSync(join(tmpdir(), 'ckpt-release-'))
const out = values.out === undefined ? join(scratch, 'tarballs') : resolve(process.env['INIT_CWD'] ?? process.cwd(), values.out)
let packed: Packed[] = []
let failures = 0
try {
  // Later steps need what earlier ones make: pack always runs for them.
  await step('build', build)
  if (steps.some((name) => STEPS.indexOf(name) >= STEPS.indexOf('pack'))) await perform('pack', pack)
  await step('lint', lint)
  if (['install', 'readme', 'sbom', 'audit'].some((name) => steps.includes(name))) await perform('install', install)
  await step('readme', readme)
  await step('sbom', sbom)
  await step('audit', () => audit(join(scratch, 'project')))
  await step('wheels', wheels)
  await step('source', source)
  await step('publish', publish)
} finally {
  if (values.keep) process.stdout.write(`kept ${scratch}\n`)
  else rmSync(scratch, { recursive: true, force: true })
}
process.exitCode = failures > 0 ? 1 : 0

async function step(name: string, action: () => Promise<Finding | string | void>): Promise<void> {
  if (steps.includes(name)) await perform(name, action)
}

async function perform(name: string, action: () => Promise<Finding | string | void>): Promise<void> {
  if (failures > 0) return
  const start = performance.now()
  try {
    const text = await action()
    const seconds = ((performance.now() - start) / 1000).toFixed(1)
    if (typeof text === 'object') process.stdout.write(`SKIP ${name}: ${text.skipped}\n`)
    else process.stdout.write(`PASS ${name} (${seconds} s)${text === undefined ? '' : `: ${text}`}\n`)
  } catch (error) {
    failures++
    process.stdout.write(`FAIL ${name}\n${(error as Error).message.replace(/^/gm, '     ')}\n`)
  }
}

async function build(): Promise<void> {
  const { code, output } = await turboBuild()
  if (code !== 0) throw new Error(output)
}

async function pack(): Promise<string> {
  const open = publicPackages().filter(({ manifest }) => manifest.publishConfig?.provenance !== true)
  if (open.length > 0) throw new Error(`publishConfig lacks "provenance": true: ${open.map(({ name }) => name).join(', ')}`)
  packed = await packAll(out)
  const size = packed.reduce((sum, { file }) => sum + statSync(file).size, 0)
  return `${packed.length} packages, ${(size / 1e6).toFixed(2)} MB`
}

async function lint(): Promise<void> {
  const problems: string[] = []
  for (const one of packed) problems.push(...(await lintTarball(one)).map((problem) => `${one.name}: ${problem}`))
  if (problems.length > 0) throw new Error(problems.join('\n'))
}

/** Installs every tarball, starts the command, and loads each package by its name, with plain Node. */
async function install(): Promise<void> {
  const project = join(scratch, 'project')
  await installInto(
    project,
    packed.map(({ file }) => file),
  )
  // What npm would have to fetch from a registry that does not have it yet would have failed.
  const { code, output } = await run(join(project, 'node_modules/.bin/ckpt'), ['--help'], { capture: true })
  if (code !== 0) throw new Error(`the installed ckpt does not start:\n${output}`)
  const names = packed.filter(({ dir }) => dir?.startsWith('packages/')).map(({ name }) => name)
  writeFileSync(join(project, 'load.mjs'), `for (const name of ${JSON.stringify(names)}) await import(name)`)
  const loaded = await run(process.execPath, ['load.mjs'], { cwd: project, capture: true, timeoutMs: 60_000 })
  if (loaded.code !== 0) throw new Error(`a package does not load:\n${loaded.output}`)
}

async function readme(): Promise<string> {
  const program = [...sourceArguments('apps/harness/src/readme.ts'), join(scratch, 'project')]
  const { code, output } = await run(process.execPath, program, { capture: true })
  if (code !== 0) throw new Error(output)
  return output.trim()
}

/** What is read of an SBOM. */
interface Sbom {
  readonly specVersion: string
  readonly components: readonly { readonly group?: string; readonly name: string }[]
}

async function sbom(): Promise<string> {
  const file = join(out, 'sbom.cdx.json')
  const tool = join(ROOT, 'node_modules/@cyclonedx/cyclonedx-npm/bin/cyclonedx-npm-cli.js')
  const args = ['--omit', 'dev', '--output-format', 'JSON', '--output-reproducible', '--output-file', file, '--validate']
  const { code, output } = await run(process.execPath, [tool, ...args, 'package.json'], {
    cwd: join(scratch, 'project'),
    capture: true,
    // Not the one that runs this script: the tool would ask it as if it were npm.
    env: packageManagerEnv(),
  })
  if (code !== 0) throw new Error(output)
  const { components, specVersion } = JSON.parse(readFileSync(file, 'utf8')) as Sbom
  const missing = packed.filter(({ name }) => !components.some(({ group, name: part }) => `${group}/${part}` === name))
  if (missing.length > 0) throw new Error(`the SBOM lacks ${missing.map(({ name }) => name).join(', ')}`)
  return `${components.length} components, CycloneDX ${specVersion}`
}

/** The Python distribution: its platform wheel works in a new environment, without Node on the PATH. */
async function wheels(): Promise<Finding | string> {
  const reason = pythonLacks(['hatchling', 'torch', 'zmq', 'msgspec'])
  if (reason !== undefined) return { skipped: reason }
  const { platform } = await buildWheels(out)
  return `${basename(platform)}, ${(statSync(platform).size / 1e6).toFixed(1)} MB: ${await checkWheel(platform)}`
}

/** Without platform packages the addons are built from what their tarballs carry. */
async function source(): Promise<string> {
  const parts = packed.filter(({ dir, platform }) => !platform && dir?.startsWith('native/'))
  const directory = join(scratch, 'source')
  await installInto(
    directory,
    parts.map(({ file }) => file),
    { ...process.env, npm_config_omit: 'optional' },
  )
  const loads = parts.filter(({ name }) => !name.endsWith('-common')).map(({ name }) => name)
  const text = `for (const name of ${JSON.stringify(loads)}) {
    const { findAddon, ...rest } = await import(name)
    const load = Object.values(rest).find((value) => typeof value === 'function')
    if (!findAddon().includes('build/Release')) throw new Error(findAddon())
    load()
  }`
  writeFileSync(join(directory, 'load.mjs'), text)
  const { code, output } = await run(process.execPath, ['load.mjs'], { cwd: directory, capture: true })
  if (code !== 0) throw new Error(output)
  return `${loads.join(', ')} built by npm install and loaded`
}

async function publish(): Promise<void> {
  for (const { file, name } of packed) {
    const { code, output } = await run('npm', ['publish', '--dry-run', '--provenance=false', '--loglevel=error', file], {
      cwd: scratch,
      capture: true,
    })
    if (code !== 0) throw new Error(`${name}: ${output}`)
  }
}

/**
 * An empty project in `directory` with these packages or tarballs installed by npm.
 * @throws Error with what npm said
 */
async function installInto(directory: string, packages: readonly string[], env = process.env): Promise<void> {
  mkdirSync(directory, { recursive: true })
  writeFileSync(
    join(directory, 'package.json'),
    JSON.stringify({ name: 'empty', version: '1.0.0', private: true, type: 'module' }),
  )
  const { code, output } = await run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', ...packages], {
    cwd: directory,
    capture: true,
    timeoutMs: 10 * 60_000,
    env,
  })
  if (code !== 0) throw new Error(`npm install failed (${code}):\n${output}`)
}
