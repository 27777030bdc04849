import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { manifestIn, ROOT, type Manifest } from './root.ts'

/** An addon of the workspace: a package with a loader. */
export interface AddonPackage {
  /** Relative to the root. */
  readonly dir: string
  readonly name: string
}

/** An addon as a bundle lists it. */
export interface BundledAddon {
  readonly name: string
  readonly version: string
  readonly built: boolean
}

/** The workspace's addons. */
export function addonPackages(): AddonPackage[] {
  return readdirSync(join(ROOT, 'native'))
    .sort()
    .map((name) => `native/${name}`)
    .filter((dir) => existsSync(join(ROOT, dir, 'index.mjs')))
    .map((dir) => ({ dir, name: manifestIn(join(ROOT, dir)).name }))
}

/** Copies the workspace's addons to where their unchanged loaders look: beside the loader, in a package that Node finds by its name. */
export function copyAddons(modules: string): BundledAddon[] {
  return addonPackages().map(({ dir, name }) => {
    const target = join(modules, name)
    const release = join(ROOT, dir, 'build/Release')
    const binaries = existsSync(release) ? readdirSync(release).filter((file) => file.endsWith('.node')) : []
    mkdirSync(join(target, 'build/Release'), { recursive: true })
    cpSync(join(ROOT, dir, 'index.mjs'), join(target, 'index.mjs'))
    for (const binary of binaries) cpSync(join(release, binary), join(target, 'build/Release', binary))
    const { version, license, type } = manifestIn(join(ROOT, dir))
    writeManifest(target, { name, version, license, type, exports: { '.': './index.mjs', './package.json': './package.json' } })
    return { name, version, built: binaries.length > 0 }
  })
}

/**
 * Copies zeromq with one of its prebuilt binaries. Its loader (cmake-ts) tries those that build/manifest.json names for this
 * platform, newest ABI first, until one loads; they are N-API addons that any Node takes, and differ in the glibc they need. The one
 * that asks least runs everywhere, so it is the only one the bundle's manifest names.
 * @returns directories of the packages copied
 */
export function copyZeromq(modules: string): string[] {
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
  const { name, version, license } = manifestIn(loader)
  writeManifest(join(modules, 'cmake-ts'), { name, version, license, type: 'commonjs' })
  return [zeromq, loader]
}

interface Binary {
  readonly key: string
  readonly file: string
  readonly glibc: number
}

function leastDemanding(build: string): Binary {
  const manifest = JSON.parse(readFileSync(join(build, 'manifest.json'), 'utf8')) as Record<string, string>
  const [first] = Object.entries(manifest)
    .filter(([key]) => {
      const { os, arch, libc } = JSON.parse(key) as Record<'os' | 'arch' | 'libc', string>
      return os === 'linux' && arch === process.arch && libc === 'glibc'
    })
    .map(([key, file]): Binary => ({ key, file, glibc: glibcOf(join(build, file)) }))
    .sort((a, b) => a.glibc - b.glibc)
  if (first === undefined) throw new Error(`zeromq has no binary for linux ${process.arch} with glibc`)
  return first
}

/** Minor version of the newest glibc 2.x symbol that an ELF file asks for; 0 when it asks for none. */
export function glibcOf(file: string): number {
  const text = readFileSync(file, 'latin1')
  return Math.max(0, ...[...text.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor)))
}

function packageOf(require: NodeJS.Require, specifier: string, name = specifier): string {
  let directory = dirname(realpathSync(require.resolve(specifier)))
  while (!existsSync(join(directory, 'package.json')) || manifestIn(directory).name !== name) {
    if (directory === dirname(directory)) throw new Error(`no package ${name} around ${require.resolve(specifier)}`)
    directory = dirname(directory)
  }
  return directory
}

function writeManifest(
  directory: string,
  manifest: { [K in keyof Manifest]?: Manifest[K] | undefined } & { exports?: object },
) {
  writeFileSync(join(directory, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}
