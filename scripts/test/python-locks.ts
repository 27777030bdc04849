import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const HASH = /^--hash=sha256:[\da-f]{64}$/
/** Has pip install something, in a shell's line or as arguments; not in a comment. */
const INSTALL = /^(?!\s*(\/\/|#|\/?\*)).*\bpip3?['"]?(,? |\(\w+, \[)['"]?(install|sync)\b/
/** Compares hashes, or fetches nothing from an index. */
const CHECKED = /--require-hashes|--dry-run|--editable/
const PINNED = /^([\w.-]+)==([\w.+!-]+)$/

/**
 * What is wrong with the lock files of Python packages, and with the scripts that install packages: a package without a version or hash, a
 * requirement that no lock file has, an install that compares no hashes, unless the line before it says why (`unchecked: …`).
 */
export function pythonLockProblems(root: string): string[] {
  return [...lockProblems(join(root, 'scripts/python')), ...installProblems(root)]
}

function lockProblems(directory: string): string[] {
  const problems: string[] = []
  const locked = new Map<string, string[]>()
  for (const file of filesOf(directory, /[.]lock$/)) {
    for (const { line, name, version, hashes } of requirements(readFileSync(join(directory, file), 'utf8'))) {
      if (version === undefined) problems.push(`${file}: "${line}" names no version: npm run lock:python`)
      else if (hashes.length === 0 || !hashes.every((hash) => HASH.test(hash)))
        problems.push(`${file}: ${name}==${version} has no SHA-256 of its files: npm run lock:python`)
      else locked.set(name, [...(locked.get(name) ?? []), version])
    }
  }
  for (const file of filesOf(directory, /[.]txt$/)) {
    for (const { line, name, version } of requirements(readFileSync(join(directory, file), 'utf8'))) {
      const found = locked.get(name)
      if (found === undefined || (version !== undefined && !found.includes(version)))
        problems.push(`${file}: ${line} is in no lock file: npm run lock:python`)
    }
  }
  return problems
}

function installProblems(root: string): string[] {
  const paths = ['scripts', 'scripts/lib', 'scripts/release', 'packages/bundle/src']
    .flatMap((folder) => filesOf(join(root, folder), /[.](mjs|ts|sh)$/).map((file) => `${folder}/${file}`))
    .concat('.ci/run')
    .filter((path) => existsSync(join(root, path)))
  return paths.flatMap((path) => {
    const lines = readFileSync(join(root, path), 'utf8').split('\n')
    return lines.flatMap((line, at) => {
      if (!INSTALL.test(line) || CHECKED.test(line) || /unchecked: ./.test(lines[at - 1] ?? '')) return []
      return [`${path}:${at + 1}: installs Python packages without --require-hashes: ${line.trim()}`]
    })
  })
}

interface Requirement {
  readonly line: string
  /** Canonical. */
  readonly name: string
  readonly version: string | undefined
  readonly hashes: readonly string[]
}

function requirements(text: string): Requirement[] {
  return text
    .replace(/\\\n/g, ' ')
    .split('\n')
    .map((line) => line.replace(/(^|\s)#.*$/, '').trim())
    .filter((line) => line !== '')
    .map((whole) => {
      const line = whole.replace(/\s+--hash=.*$/, '')
      const [, name, version] = PINNED.exec(line.split(';')[0]!.trim()) ?? []
      return {
        line,
        name: canonical(name ?? line),
        version,
        hashes: whole.split(/\s+/).filter((part) => part.startsWith('--hash=')),
      }
    })
}

function canonical(name: string): string {
  return name.toLowerCase().replace(/[-_.]+/g, '-')
}

function filesOf(directory: string, name: RegExp): string[] {
  return existsSync(directory) ? readdirSync(directory).filter((file) => name.test(file)) : []
}
