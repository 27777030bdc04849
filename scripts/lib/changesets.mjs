import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.mjs'
import { workspacePackages } from './workspace.mjs'

const ENTRY = /^(['"]?)(\S+?)\1: (patch|minor|major)$/

/** What is wrong with the changesets: unreadable ones, unknown or private packages, and ones that say nothing. */
export function changesetProblems(root = ROOT) {
  const directory = join(root, '.changeset')
  if (!existsSync(directory)) return ['.changeset is missing']
  const known = new Map(workspacePackages(root).map(({ name, manifest }) => [name, manifest.private !== true]))
  return readdirSync(directory)
    .filter((name) => name.endsWith('.md') && name !== 'README.md')
    .flatMap((name) => check(name, readFileSync(join(directory, name), 'utf8'), known))
}

function check(name, text, known) {
  const parts = /^---\n([\s\S]*?)\n?---\n([\s\S]*)$/.exec(text)
  if (parts === null) return [`${name}: does not start with a --- block`]
  const problems = parts[1]
    .split('\n')
    .filter((line) => line.trim() !== '')
    .flatMap((line) => {
      const entry = ENTRY.exec(line)
      if (entry === null) return [`${name}: "${line}" is not "package: patch | minor | major"`]
      const isPublic = known.get(entry[2])
      if (isPublic === undefined) return [`${name}: there is no package ${entry[2]}`]
      return isPublic ? [] : [`${name}: ${entry[2]} is private and is not released`]
    })
  if (parts[2].trim() === '') problems.push(`${name}: does not say what changed`)
  return problems
}
