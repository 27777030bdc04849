import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describeInputs } from './inputs.mjs'
import { ROOT } from './root.mjs'
import { workspacePackages } from './workspace.mjs'

const STAMP = join(ROOT, 'node_modules/.cache/ckpt/setup.json')
const NOT_SOURCE = new Set(['build', 'node_modules', 'test', 'etc', '.turbo'])

/** What was done at the last set-up: keys of the installation and of each addon's build. */
export function readStamp() {
  try {
    return { native: {}, ...JSON.parse(readFileSync(STAMP, 'utf8')) }
  } catch {
    return { native: {} }
  }
}

export function writeStamp(stamp) {
  mkdirSync(dirname(STAMP), { recursive: true })
  writeFileSync(STAMP, JSON.stringify(stamp, null, 2))
}

/** Changes when the dependencies to install change. */
export function installKey() {
  const hash = createHash('sha256').update(process.version)
  for (const file of ['pnpm-lock.yaml', 'pnpm-workspace.yaml', 'package.json']) hash.update(readFileSync(join(ROOT, file)))
  for (const { dir } of workspacePackages()) hash.update(dir).update(readFileSync(join(ROOT, dir, 'package.json')))
  return hash.digest('hex')
}

/** Whether an installation made earlier is still in place. */
export function installed() {
  return existsSync(join(ROOT, 'node_modules/.modules.yaml')) && existsSync(join(ROOT, 'node_modules/tsx/package.json'))
}

/**
 * The addons of the workspace, with a key over their sources, those they share, and what a build finds of optional inputs (headers,
 * nvcc), which is in `inputs` too: an addon built without one does less. One whose package.json says
 * `"ckpt": { "optionalBuild": true }` may fail to build without stopping the set-up.
 */
export function addons() {
  const shared = hashTree(join(ROOT, 'native/common'))
  const toolchain = `${process.version} ${process.arch} ${process.env.CXX ?? ''} ${process.env.CUDA_HOME ?? ''}`
  return workspacePackages()
    .filter(({ manifest }) => manifest.scripts?.['build:native'] !== undefined)
    .map(({ dir, name, manifest }) => {
      const inputs = describeInputs(manifest.ckpt?.optionalInputs ?? [])
      return {
        dir,
        name,
        optional: manifest.ckpt?.optionalBuild === true,
        inputs,
        key: createHash('sha256')
          .update(`${toolchain}\n${inputs}\n`)
          .update(shared)
          .update(hashTree(join(ROOT, dir)))
          .digest('hex'),
      }
    })
}

/** Has the addon's next build look for its inputs again: CMake keeps where it found them, and that it did not. */
export function forgetInputs(dir, root = ROOT) {
  rmSync(join(root, dir, 'build/CMakeCache.txt'), { force: true })
}

/** Whether the addon's binary is there. */
export function built(dir) {
  const release = join(ROOT, dir, 'build/Release')
  return existsSync(release) && readdirSync(release).some((name) => name.endsWith('.node'))
}

function hashTree(directory) {
  const hash = createHash('sha256')
  const entries = readdirSync(directory, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const entry of entries) {
    if (NOT_SOURCE.has(entry.name)) continue
    hash.update(`${entry.name}\0`)
    const path = join(directory, entry.name)
    if (entry.isDirectory()) hash.update(hashTree(path))
    else if (entry.isFile()) hash.update(readFileSync(path))
  }
  return hash.digest('hex')
}
