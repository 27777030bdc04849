import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.mjs'

/**
 * Every package of the workspace.
 * @returns {{ dir: string, name: string, manifest: Record<string, any> }[]} `dir` is relative to the root
 */
export function workspacePackages(root = ROOT) {
  return ['packages', 'native', 'apps'].flatMap((group) => {
    if (!existsSync(join(root, group))) return []
    return readdirSync(join(root, group))
      .sort()
      .map((name) => `${group}/${name}`)
      .filter((dir) => existsSync(join(root, dir, 'package.json')))
      .map((dir) => {
        const manifest = JSON.parse(readFileSync(join(root, dir, 'package.json'), 'utf8'))
        return { dir, name: manifest.name, manifest }
      })
  })
}
