import { statSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { ROOT } from './root.mjs'

/**
 * What an addon's build uses where it is there: `optionalInputs` in the "ckpt" part of its package.json, each a header or a program
 * with the folders to look into besides the usual ones. A folder that begins with `$NAME` is below that variable's, one that begins with
 * `./` is in the repository.
 * @typedef {{ readonly name: string, readonly header?: string, readonly program?: string, readonly folders?: readonly string[] }} Input
 */

/**
 * Where each input is, or "absent", with size and time: this text changes when an input comes, goes or is replaced.
 * @param {readonly Input[]} inputs
 * @param {NodeJS.ProcessEnv} env
 * @returns {string}
 */
export function describeInputs(inputs, env = process.env) {
  return inputs
    .map(({ name, header, program, folders = [] }) => {
      const own = folders.flatMap((folder) => expanded(folder, env))
      const found = first(
        header === undefined ? [...listed(env.PATH), ...own] : [...own, ...headerFolders(env)],
        header ?? program,
      )
      return `${name}: ${found ?? 'absent'}`
    })
    .join('\n')
}

/** Folders in which CMake and the compiler look for headers. */
function headerFolders(env) {
  const prefixes = listed(env.CMAKE_PREFIX_PATH, /[:;]/).map((prefix) => join(prefix, 'include'))
  const folders = [env.CMAKE_INCLUDE_PATH, env.CPATH, env.CPLUS_INCLUDE_PATH].flatMap((list) => listed(list, /[:;]/))
  const triplet = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`
  return [...prefixes, ...folders, '/usr/local/include', '/usr/include', `/usr/include/${triplet}`]
}

function listed(list, separator = delimiter) {
  return (list ?? '').split(separator).filter((folder) => folder !== '')
}

/** Where a folder is; nowhere if its variable is not set. */
function expanded(folder, env) {
  if (folder.startsWith('./')) return [join(ROOT, folder)]
  const [, variable, rest] = /^\$(\w+)(.*)$/.exec(folder) ?? []
  if (variable === undefined) return [folder]
  return env[variable] ? [env[variable] + rest] : []
}

function first(folders, name) {
  for (const folder of folders) {
    const path = join(folder, name)
    try {
      const { size, mtimeMs } = statSync(path)
      return `${path} ${size} ${mtimeMs}`
    } catch {
      // not in this one
    }
  }
  return undefined
}
