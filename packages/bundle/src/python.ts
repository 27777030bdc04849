import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.ts'

/** What installers know of the Python distribution. */
export interface Distribution {
  readonly name: string
  readonly version: string
  /** `name = module:function` lines by group: how vLLM and SGLang find the plug-ins. */
  readonly entryPoints: ReadonlyMap<string, readonly string[]>
}

/** Reads it from the distribution's pyproject.toml. @throws Error where name or version are missing */
export function distribution(): Distribution {
  const text = readFileSync(join(ROOT, 'packages/python/pyproject.toml'), 'utf8')
  const value = (key: string) => {
    const found = new RegExp(`^${key} = "(.+)"$`, 'm').exec(text)?.[1]
    if (found === undefined) throw new Error(`packages/python/pyproject.toml has no ${key}`)
    return found
  }
  const groups = text.matchAll(/^\[project[.]entry-points[.]"(.+)"\]\n((?:(?!\[).*\n)*)/gm)
  const entryPoints = [...groups].map(([, group, lines]): [string, string[]] => [
    group!,
    [...lines!.matchAll(/^(\w+) = "(.+)"$/gm)].map(([, name, target]) => `${name} = ${target}`),
  ])
  return { name: value('name'), version: value('version'), entryPoints: new Map(entryPoints) }
}

/** Makes the Python packages in `directory` known as an installed distribution, so that plug-ins register from there. */
export function writeDistribution(directory: string): void {
  const { name, version, entryPoints } = distribution()
  const info = join(directory, `${name}-${version}.dist-info`)
  mkdirSync(info, { recursive: true })
  writeFileSync(join(info, 'METADATA'), `Metadata-Version: 2.1\nName: ${name}\nVersion: ${version}\n`)
  const sections = [...entryPoints].map(([group, lines]) => `[${group}]\n${lines.join('\n')}\n`)
  writeFileSync(join(info, 'entry_points.txt'), sections.join('\n'))
}
