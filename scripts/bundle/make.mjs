import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from '../lib/root.mjs'
import { addonPackages, copyAddons, copyZeromq, glibcOf } from './addons.mjs'
import { bundleJavaScript } from './javascript.mjs'
import { copyLicenses } from './licenses.mjs'
import { commit, fileTable } from './manifest.mjs'
import { copyNode, nodeLicense } from './node.mjs'

const MANIFEST = 'MANIFEST.json'
/** What is compared at every start, by sha256sum: everything that is run. */
const SUMS = 'SHA256SUMS'
const RUN = /^(bin|lib|node|python)\//

/**
 * Makes the bundle at `out`, in place of an older one. Layout: `bin/` commands, `lib/` JavaScript and, under `node_modules`, what
 * loads native code, `node/` Node, `python/` the worker package and the reference engine, `licenses/`, `SHA256SUMS`, `MANIFEST.json`.
 *
 * @param {{ out: string, node: 'packed' | 'raw' | 'none' }} options
 * @returns {Promise<Record<string, any>>} the manifest
 * @throws Error when `out` holds something that is no bundle
 */
export async function makeBundle({ out, node }) {
  if (existsSync(out) && !existsSync(join(out, MANIFEST)) && readdirSync(out).length > 0) {
    throw new Error(`${out} exists and is no bundle: name another place, or remove it`)
  }
  const part = `${out}.part-${process.pid}`
  try {
    const manifest = await fill(part, node)
    rmSync(out, { recursive: true, force: true })
    renameSync(part, out)
    return manifest
  } finally {
    rmSync(part, { recursive: true, force: true })
  }
}

async function fill(directory, node) {
  const lib = join(directory, 'lib')
  const modules = join(lib, 'node_modules')
  mkdirSync(modules, { recursive: true })
  const external = ['zeromq', ...addonPackages().map(({ name }) => name)]
  const inputs = await bundleJavaScript({ outdir: lib, external })
  const addons = copyAddons(modules)
  const unbundled = copyZeromq(modules)
  copyCommands(join(directory, 'bin'))
  const python = join(ROOT, 'packages/python')
  for (const from of [python, join(ROOT, 'packages/testing/python')]) {
    cpSync(join(from, 'src'), join(directory, 'python'), { recursive: true, filter: (path) => !path.includes('__pycache__') })
  }
  cpSync(join(ROOT, 'LICENSE'), join(directory, 'LICENSE'))
  const licenses = join(directory, 'licenses')
  const packages = copyLicenses({ inputs, packages: unbundled, target: licenses })
  const nodeFacts = node === 'none' ? null : copyNode(join(directory, 'node'), { raw: node === 'raw' })
  const license = nodeFacts === null ? undefined : nodeLicense()
  if (license !== undefined) copyTo(license, join(licenses, 'node/LICENSE'))

  const sums = Object.entries(fileTable(directory)).filter(([file]) => RUN.test(file))
  writeFileSync(join(directory, SUMS), sums.map(([file, { sha256 }]) => `${sha256}  ${file}\n`).join(''))
  const files = fileTable(directory)
  const binaries = Object.keys(files).filter((file) => file.endsWith('.node'))
  const glibc = Math.max(
    ...[...binaries.map((file) => join(directory, file)), ...(nodeFacts ? [process.execPath] : [])].map(glibcOf),
  )
  const { version } = JSON.parse(readFileSync(join(ROOT, 'apps/cli/package.json'), 'utf8'))
  const manifest = {
    schema: 1,
    name: 'ckpt',
    version,
    ...commit(),
    platform: `${process.platform}-${process.arch}`,
    needs: { glibc: `2.${glibc}`, ...(nodeFacts === null && { node: '>=20.17' }) },
    node: nodeFacts,
    pythonWorker: /^version = "(.+)"$/m.exec(readFileSync(join(python, 'pyproject.toml'), 'utf8'))?.[1] ?? null,
    addons,
    packages,
    files,
  }
  writeFileSync(join(directory, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`)
  return manifest
}

function copyCommands(target) {
  cpSync(join(ROOT, 'scripts/bundle/bin'), target, { recursive: true })
  for (const name of readdirSync(target)) chmodSync(join(target, name), 0o755)
}

function copyTo(from, to) {
  mkdirSync(dirname(to), { recursive: true })
  cpSync(from, to)
}
