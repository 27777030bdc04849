import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { addonPackages, type BundledAddon, copyAddons, copyZeromq, glibcOf } from './addons.ts'
import { bundleJavaScript, ENTRIES } from './javascript.ts'
import { copyLicenses } from './licenses.ts'
import { commit, type FileEntry, fileTable } from './manifest.ts'
import { type BundledNode, copyNode } from './node.ts'
import { distribution, writeDistribution } from './python.ts'
import { manifestIn, ROOT } from './root.ts'

const MANIFEST = 'MANIFEST.json'
/** What is compared at every start, by sha256sum: everything that is run. */
const SUMS = 'SHA256SUMS'
const RUN = /^(bin|lib|node|python)\//
/** Sources of the Python packages that go in. */
const PYTHON = ['packages/python/src', 'packages/testing/python/src']

/** How Node goes into a bundle. */
export type NodeKind = 'packed' | 'raw' | 'none'

/** What goes into a bundle. */
export interface BundleContents {
  readonly node: NodeKind
  /** Names of programs and libraries (default: all, with the Python packages). */
  readonly programs?: readonly string[]
}

/** `MANIFEST.json` of a bundle. */
export interface BundleManifest {
  readonly schema: 1
  readonly name: string
  readonly version: string
  readonly commit: string | null
  readonly time: number
  readonly modified: boolean
  readonly platform: string
  readonly needs: { readonly glibc: string; readonly node?: string }
  readonly node: BundledNode | null
  readonly pythonWorker: string | null
  readonly addons: readonly BundledAddon[]
  readonly packages: Readonly<Record<string, { readonly version: string; readonly license: string }>>
  readonly files: Readonly<Record<string, FileEntry>>
}

/**
 * Makes the bundle at `out`, in place of an older one. Layout: `bin/` commands, `lib/` JavaScript and, under `node_modules`, what
 * loads native code, `node/` Node, `python/` the Python package and the reference engine, `licenses/`, `SHA256SUMS`, `MANIFEST.json`.
 * @throws Error when `out` holds something that is no bundle, or there is no such program
 */
export async function makeBundle(out: string, contents: BundleContents): Promise<BundleManifest> {
  const unknown = contents.programs?.find((name) => !ENTRIES.has(name))
  if (unknown !== undefined) throw new Error(`there is no program ${unknown}, only ${[...ENTRIES.keys()].join(', ')}`)
  if (existsSync(out) && !existsSync(join(out, MANIFEST)) && readdirSync(out).length > 0) {
    throw new Error(`${out} exists and is no bundle: name another place, or remove it`)
  }
  const part = `${out}.part-${process.pid}`
  try {
    const manifest = await fill(part, contents)
    rmSync(out, { recursive: true, force: true })
    renameSync(part, out)
    return manifest
  } finally {
    rmSync(part, { recursive: true, force: true })
  }
}

async function fill(directory: string, { node, programs }: BundleContents): Promise<BundleManifest> {
  const lib = join(directory, 'lib')
  const modules = join(lib, 'node_modules')
  mkdirSync(modules, { recursive: true })
  const external = ['zeromq', ...addonPackages().map(({ name }) => name)]
  const first = new Map([...ENTRIES].filter(([name]) => programs?.includes(name) ?? true))
  const inputs = await bundleJavaScript({ outdir: lib, external, first })
  const addons = copyAddons(modules)
  const unbundled = copyZeromq(modules)
  copyCommands(join(directory, 'bin'), programs)
  for (const from of programs === undefined ? PYTHON : []) {
    const filter = (path: string) => !path.includes('__pycache__')
    cpSync(join(ROOT, from), join(directory, 'python'), { recursive: true, filter })
  }
  if (programs === undefined) writeDistribution(join(directory, 'python'))
  cpSync(join(ROOT, 'LICENSE'), join(directory, 'LICENSE'))
  const licenses = join(directory, 'licenses')
  const packages = copyLicenses({ inputs, packages: unbundled, target: licenses })
  const carried = node === 'none' ? undefined : copyNode(join(directory, 'node'), node === 'raw')
  if (carried !== undefined) copyTo(carried.license, join(licenses, 'node/LICENSE'))

  const sums = Object.entries(fileTable(directory)).filter(([file]) => RUN.test(file))
  writeFileSync(join(directory, SUMS), sums.map(([file, { sha256 }]) => `${sha256}  ${file}\n`).join(''))
  const files = fileTable(directory)
  const binaries = Object.keys(files)
    .filter((file) => file.endsWith('.node'))
    .map((file) => join(directory, file))
  const glibc = Math.max(...[...binaries, ...(carried === undefined ? [] : [carried.binary])].map(glibcOf))
  const manifest: BundleManifest = {
    schema: 1,
    name: 'ckpt',
    version: manifestIn(join(ROOT, 'apps/cli')).version,
    ...commit(),
    platform: `${process.platform}-${process.arch}`,
    needs: { glibc: `2.${glibc}`, ...(carried === undefined && { node: '>=20.17' }) },
    node: carried?.node ?? null,
    pythonWorker: programs === undefined ? distribution().version : null,
    addons,
    packages,
    files,
  }
  writeFileSync(join(directory, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`)
  return manifest
}

/** Copies the commands of the programs (default: all), and the one that starts Node. */
function copyCommands(target: string, programs?: readonly string[]): void {
  const from = fileURLToPath(new URL('./bin', import.meta.url))
  mkdirSync(target, { recursive: true })
  for (const name of readdirSync(from)) {
    if (name !== 'ckpt-node' && programs?.includes(name) === false) continue
    cpSync(join(from, name), join(target, name))
    chmodSync(join(target, name), 0o755)
  }
}

function copyTo(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true })
  cpSync(from, to)
}
