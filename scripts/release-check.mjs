#!/usr/bin/env node
// Everything a release does but publishing: node scripts/release-check.mjs [--only STEP,…] [--out DIR] [--keep]
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { changesetProblems } from './lib/changesets.mjs'
import { installInto } from './lib/npm.mjs'
import { run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'
import { audit } from './release/audit.mjs'
import { lintTarball } from './release/lint.mjs'
import { packAll, publicPackages } from './release/pack.mjs'
import { runReadme } from './release/project.mjs'
import { ensureSetup } from './setup.mjs'

const STEPS = ['changesets', 'build', 'pack', 'lint', 'install', 'readme', 'sbom', 'audit', 'source', 'publish']
const { values } = parseArgs({
  options: { only: { type: 'string' }, out: { type: 'string' }, keep: { type: 'boolean' }, help: { type: 'boolean' } },
})
const steps = values.only?.split(',') ?? STEPS
if (values.help || steps.some((step) => !STEPS.includes(step))) {
  process.stdout.write(`usage: pnpm release:check [--only ${STEPS.join(',')}] [--out DIR] [--keep]\n`)
  process.exit(values.help ? 0 : 2)
}

await ensureSetup()
const scratch = mkdtempSync(join(tmpdir(), 'ckpt-release-'))
const out = values.out === undefined ? join(scratch, 'tarballs') : resolve(process.env.INIT_CWD ?? process.cwd(), values.out)
let packed = []
let failed = false
try {
  // Later steps need what earlier ones make: pack always runs for them.
  await step('changesets', changesets)
  await step('build', build)
  if (steps.some((name) => STEPS.indexOf(name) >= STEPS.indexOf('pack'))) await perform('pack', pack)
  await step('lint', lint)
  if (['install', 'readme', 'sbom', 'audit'].some((name) => steps.includes(name))) await perform('install', install)
  await step('readme', readme)
  await step('sbom', sbom)
  await step('audit', () => audit(join(scratch, 'project')))
  await step('source', source)
  await step('publish', publish)
} finally {
  if (values.keep) process.stdout.write(`kept ${scratch}\n`)
  else rmSync(scratch, { recursive: true, force: true })
}
process.exitCode = failed ? 1 : 0

async function step(name, action) {
  if (steps.includes(name)) await perform(name, action)
}

async function perform(name, action) {
  if (failed) return
  const start = performance.now()
  try {
    const text = await action()
    if (text?.skipped !== undefined) {
      process.stdout.write(`SKIP ${name}: ${text.skipped}\n`)
      return
    }
    process.stdout.write(
      `PASS ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)${text === undefined ? '' : `: ${text}`}\n`,
    )
  } catch (error) {
    failed = true
    process.stdout.write(`FAIL ${name}\n${String(error.message).replace(/^/gm, '     ')}\n`)
  }
}

function changesets() {
  const problems = changesetProblems()
  const open = publicPackages().filter(({ manifest }) => manifest.publishConfig?.provenance !== true)
  problems.push(...open.map(({ name }) => `${name}: publishConfig does not have "provenance": true`))
  if (problems.length > 0) throw new Error(problems.join('\n'))
}

async function build() {
  const { code, output } = await run(process.execPath, [join(ROOT, 'scripts/build-check.mjs')], { capture: true })
  if (code !== 0) throw new Error(output)
}

async function pack() {
  packed = await packAll(out)
  const size = packed.reduce((sum, { file }) => sum + statSync(file).size, 0)
  return `${packed.length} packages, ${(size / 1e6).toFixed(2)} MB`
}

async function lint() {
  const problems = []
  for (const one of packed) problems.push(...(await lintTarball(one)).map((problem) => `${one.name}: ${problem}`))
  if (problems.length > 0) throw new Error(problems.join('\n'))
}

async function install() {
  await installInto(
    join(scratch, 'project'),
    packed.map(({ file }) => file),
  )
  // What npm would have to fetch from a registry that does not have it yet would have failed.
  const { code, output } = await run(join(scratch, 'project/node_modules/.bin/ckpt'), ['--help'], { capture: true })
  if (code !== 0) throw new Error(`the installed ckpt does not start:\n${output}`)
}

async function readme() {
  const { ranks, bytes, tensors, output } = await runReadme(join(scratch, 'project'))
  return `${ranks} ranks updated ${ranks} workers, ${tensors} tensors, ${(bytes / 1e6).toFixed(1)} MB, every byte compared; it printed: ${output.split('\n')[0]}`
}

async function sbom() {
  const file = join(out, 'sbom.cdx.json')
  const tool = join(ROOT, 'node_modules/@cyclonedx/cyclonedx-npm/bin/cyclonedx-npm-cli.js')
  const args = ['--omit', 'dev', '--output-format', 'JSON', '--output-reproducible', '--output-file', file, '--validate']
  const { code, output } = await run(process.execPath, [tool, ...args, 'package.json'], {
    cwd: join(scratch, 'project'),
    capture: true,
  })
  if (code !== 0) throw new Error(output)
  const { components, specVersion } = JSON.parse(readFileSync(file, 'utf8'))
  const missing = packed.filter(({ name }) => !components.some(({ group, name: part }) => `${group}/${part}` === name))
  if (missing.length > 0) throw new Error(`the SBOM lacks ${missing.map(({ name }) => name).join(', ')}`)
  return `${components.length} components, CycloneDX ${specVersion}`
}

/** Without platform packages the addons are built from what their tarballs carry. */
async function source() {
  const parts = packed.filter(({ dir, platform }) => !platform && dir.startsWith('native/'))
  const directory = join(scratch, 'source')
  await installInto(
    directory,
    parts.map(({ file }) => file),
    { env: { ...process.env, npm_config_omit: 'optional' } },
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

async function publish() {
  for (const { file, name } of packed) {
    const { code, output } = await run('npm', ['publish', '--dry-run', '--provenance=false', '--loglevel=error', file], {
      cwd: scratch,
      capture: true,
    })
    if (code !== 0) throw new Error(`${name}: ${output}`)
  }
}
