import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.mjs'

/**
 * What is read of a package.json.
 * @typedef {object} Manifest
 * @property {string} name
 * @property {string} version
 * @property {boolean} [private]
 * @property {Record<string, string>} [scripts]
 * @property {Record<string, string | null | { '@ckpt/source'?: string, types?: string }>} [exports]
 * @property {Record<string, string>} [optionalDependencies]
 * @property {{ provenance?: boolean }} [publishConfig]
 * @property {{ optionalBuild?: boolean, optionalInputs?: import('./inputs.mjs').Input[] }} [ckpt]
 */

/**
 * Every package of the workspace.
 * @returns {{ dir: string, name: string, manifest: Manifest }[]} `dir` is relative to the root
 */
export function workspacePackages(root = ROOT) {
  return ['packages', 'native', 'apps'].flatMap((group) => {
    if (!existsSync(join(root, group))) return []
    return readdirSync(join(root, group))
      .sort()
      .map((name) => `${group}/${name}`)
      .filter((dir) => existsSync(join(root, dir, 'package.json')))
      .map((dir) => {
        /** @type {Manifest} */
        const manifest = JSON.parse(readFileSync(join(root, dir, 'package.json'), 'utf8'))
        return { dir, name: manifest.name, manifest }
      })
  })
}
