import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { ROOT } from '../lib/root.mjs'
import { workspacePackages } from '../lib/workspace.mjs'

/** The workspace's addons: packages with a loader. */
export function addonPackages() {
  return workspacePackages().filter(({ dir }) => dir.startsWith('native/') && existsSync(join(ROOT, dir, 'index.mjs')))
}

/**
 * Copies the workspace's addons to where their unchanged loaders look: beside the loader, in a package that Node finds by its name.
 * @returns {{ name: string, version: string, built: boolean }[]}
 */
export function copyAddons(modules) {
  return addonPackages().map(({ dir, name, manifest }) => {
    const target = join(modules, name)
    const release = join(ROOT, dir, 'build/Release')
    const binaries = existsSync(release) ? readdirSync(release).filter((file) => file.endsWith('.node')) : []
    mkdirSync(join(target, 'build/Release'), { recursive: true })
    cpSync(join(ROOT, dir, 'index.mjs'), join(target, 'index.mjs'))
    for (const binary of binaries) cpSync(join(release, binary), join(target, 'build/Release', binary))
    const { version, license, type } = manifest
    writeManifest(target, { name, version, license, type, exports: { '.': './index.mjs', './package.json': './package.json' } })
    return { name, version, built: binaries.length > 0 }
  })
}

/**
 * Copies zeromq with one of its prebuilt binaries. Its loader (cmake-ts) tries those that build/manifest.json names for this
 * platform, newest ABI first, until one loads; they are N-API addons that any Node takes, and differ in the glibc they need. The one
 * that asks least runs everywhere, so it is the only one the bundle's manifest names.
 * @returns {string[]} directories of the packages copied
 */
export function copyZeromq(modules) {
  const zeromq = packageOf(createRequire(join(ROOT, 'packages/rendezvous/package.json')), 'zeromq')
  const loader = packageOf(createRequire(join(zeromq, 'package.json')), 'cmake-ts/build/loader', 'cmake-ts')
  const target = join(modules, 'zeromq')
  mkdirSync(join(target, 'build'), { recursive: true })
  cpSync(join(zeromq, 'package.json'), join(target, 'package.json'))
  cpSync(join(zeromq, 'lib'), join(target, 'lib'), {
    recursive: true,
    filter: (path) => !/[.](ts|map|tsbuildinfo)$|ts3[.]7/.test(path),
  })

  const { key, file } = leastDemanding(join(zeromq, 'build'))
  mkdirSync(dirname(join(target, 'build', file)), { recursive: true })
  cpSync(join(zeromq, 'build', file), join(target, 'build', file))
  writeFileSync(join(target, 'build/manifest.json'), JSON.stringify({ [key]: file }))

  mkdirSync(join(modules, 'cmake-ts/build'), { recursive: true })
  cpSync(join(loader, 'build/loader.js'), join(modules, 'cmake-ts/build/loader.js'))
  const { name, version, license } = JSON.parse(readFileSync(join(loader, 'package.json'), 'utf8'))
  writeManifest(join(modules, 'cmake-ts'), { name, version, license, type: 'commonjs' })
  return [zeromq, loader]
}

function leastDemanding(build) {
  const manifest = JSON.parse(readFileSync(join(build, 'manifest.json'), 'utf8'))
  const candidates = Object.entries(manifest)
    .map(([key, file]) => ({ key, file, config: JSON.parse(key) }))
    .filter(({ config: { os, arch, libc } }) => os === 'linux' && arch === process.arch && libc === 'glibc')
    .map((candidate) => ({ ...candidate, glibc: glibcOf(join(build, candidate.file)) }))
    .sort((a, b) => a.glibc - b.glibc)
  if (candidates.length === 0) throw new Error(`zeromq has no binary for linux ${process.arch} with glibc`)
  return candidates[0]
}

/** Minor version of the newest glibc 2.x symbol that an ELF file asks for; 0 when it asks for none. */
export function glibcOf(file) {
  const text = readFileSync(file, 'latin1')
  return Math.max(0, ...[...text.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor)))
}

function packageOf(require, specifier, name = specifier) {
  let directory = dirname(realpathSync(require.resolve(specifier)))
  while (!existsSync(join(directory, 'package.json')) || nameIn(directory) !== name) {
    if (directory === dirname(directory)) throw new Error(`no package ${name} around ${require.resolve(specifier)}`)
    directory = dirname(directory)
  }
  return directory
}

function nameIn(directory) {
  return JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')).name
}

function writeManifest(directory, manifest) {
  writeFileSync(join(directory, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}
