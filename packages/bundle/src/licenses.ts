import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createRequire } from 'node:module'
import { addonPackages } from './addons.ts'
import { manifestIn, ROOT, type Manifest } from './root.ts'

const LICENSE_FILE = /^(licen[cs]e|copying|notice)/i

/** What went into a bundle, and where license files go. */
export interface LicenseOptions {
  /** Bundled sources, relative to the root. */
  readonly inputs: readonly string[]
  /** Directories of packages copied as they are. */
  readonly packages: readonly string[]
  readonly target: string
}

/**
 * Copies the license files of every package that went in.
 * @returns versions and licenses by package name
 */
export function copyLicenses({
  inputs,
  packages,
  target,
}: LicenseOptions): Record<string, Pick<Required<Manifest>, 'version' | 'license'>> {
  const directories = new Set([...packages, ...headerPackages()])
  for (const input of inputs) {
    const directory = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1]
    if (directory !== undefined) directories.add(join(ROOT, directory))
  }
  const found: Record<string, Pick<Required<Manifest>, 'version' | 'license'>> = {}
  for (const directory of directories) {
    const { name, version, license } = manifestIn(directory)
    found[name] = { version, license: license ?? 'see its license file' }
    for (const file of readdirSync(directory).filter((entry) => LICENSE_FILE.test(entry))) {
      mkdirSync(join(target, name), { recursive: true })
      cpSync(join(directory, file), join(target, name, file), { recursive: true })
    }
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Packages whose headers are compiled into the addons. */
function headerPackages(): string[] {
  return addonPackages().flatMap(({ dir }) => {
    const require = createRequire(join(ROOT, dir, 'package.json'))
    const directory = dirname(require.resolve('node-addon-api/package.json'))
    return existsSync(directory) ? [directory] : []
  })
}
