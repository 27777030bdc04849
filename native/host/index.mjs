import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const directory = dirname(fileURLToPath(import.meta.url))
const binary = join(directory, 'build', 'Release', 'ckpt_host.node')
const platform = `@ckpt/native-host-${process.platform}-${process.arch}`

/** Path of the addon: built here, or from the package of this platform; undefined if there is neither. */
export function findAddon() {
  if (existsSync(binary)) return binary
  try {
    return createRequire(import.meta.url).resolve(`${platform}/ckpt_host.node`)
  } catch {
    return undefined
  }
}

/** Build requirements that are missing on this machine. */
function missingTools() {
  const folders = (process.env.PATH ?? '').split(':').filter((folder) => folder !== '' && existsSync(folder))
  const found = new Set(folders.flatMap((folder) => safeList(folder)))
  const tools = [
    ['g++', process.env.CXX !== undefined || ['g++', 'c++', 'clang++'].some((name) => found.has(name))],
    ['cmake', found.has('cmake')],
    ['make', ['make', 'ninja'].some((name) => found.has(name))],
  ]
  return tools.filter(([, present]) => !present).map(([name]) => name)
}

function safeList(folder) {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function fixes(problem) {
  const missing = missingTools()
  const lines = [`@ckpt/native-host cannot be loaded: ${problem}`]
  if (process.platform !== 'linux') lines.push(`- it runs on Linux only; this is ${process.platform}`)
  if (missing.length > 0) lines.push(`- install what the build needs: apt-get install -y ${missing.join(' ')}`)
  else lines.push(`- install it built: npm install ${platform} (for glibc systems)`)
  lines.push(
    `- build it: pnpm --filter @ckpt/native-host build:native (in the repository), or npx cmake-js build in ${directory}`,
  )
  return lines.join('\n')
}

function load() {
  const addon = findAddon()
  if (addon === undefined) throw Object.assign(new Error(fixes('it is not built')), { code: 'ADDON_UNAVAILABLE', file: binary })
  try {
    return createRequire(import.meta.url)(addon)
  } catch (cause) {
    throw Object.assign(new Error(fixes(cause.message), { cause }), { code: 'ADDON_UNAVAILABLE', file: addon })
  }
}

let loaded

/** The addon; loaded at the first call. Throws an Error with code ADDON_UNAVAILABLE; its message lists the fixes. */
export function loadNativeHost() {
  loaded ??= load()
  return loaded
}
