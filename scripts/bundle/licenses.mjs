import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createRequire } from 'node:module'
import { ROOT } from '../lib/root.mjs'
import { addonPackages } from './addons.mjs'

const LICENSE_FILE = /^(licen[cs]e|copying|notice)/i

/**
 * Copies the license files of every package that went in.
 * @param {{ inputs: readonly string[], packages: readonly string[], target: string }} options `inputs`: bundled sources, relative to
 *   the root; `packages`: directories of packages copied as they are
 * @returns {Record<string, { version: string, license: string }>} by package name
 */
export function copyLicenses({ inputs, packages, target }) {
  const directories = new Set([...packages, ...headerPackages()])
  for (const input of inputs) {
    const directory = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1]
    if (directory !== undefined) directories.add(join(ROOT, directory))
  }
  const found = {}
  for (const directory of directories) {
    const { name, version, license } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))
    found[name] = { version, license: license ?? 'see its license file' }
    for (const file of readdirSync(directory).filter((entry) => LICENSE_FILE.test(entry))) {
      mkdirSync(join(target, name), { recursive: true })
      cpSync(join(directory, file), join(target, name, file), { recursive: true })
    }
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Packages whose headers are compiled into the addons. */
function headerPackages() {
  return addonPackages().flatMap(({ dir }) => {
    const require = createRequire(join(ROOT, dir, 'package.json'))
    const directory = dirname(require.resolve('node-addon-api/package.json'))
    return existsSync(directory) ? [directory] : []
  })
}
