import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const directory = dirname(fileURLToPath(import.meta.url))
const binary = join(directory, 'build', 'Release', 'ckpt_cuda.node')
const platform = `@ckpt/native-cuda-${process.platform}-${process.arch}`

/** Path of the addon: built here, or from the package of this platform; undefined if there is neither. */
export function findAddon() {
  if (existsSync(binary)) return binary
  try {
    return createRequire(import.meta.url).resolve(`${platform}/ckpt_cuda.node`)
  } catch {
    return undefined
  }
}
const build = `pnpm --filter @ckpt/native-cuda build:native (in the repository), or npx cmake-js build in ${directory}`

function unavailable(problem, cause) {
  const message = `@ckpt/native-cuda cannot be loaded: ${problem}\n- install it built: npm install ${platform} (for glibc systems)\n- or build it (g++, cmake and make are enough; nvcc adds the kernels): ${build}`
  return Object.assign(new Error(message, cause && { cause }), { code: 'ADDON_UNAVAILABLE', file: binary })
}

let loaded

/** The addon; loaded at the first call. Throws an Error with code ADDON_UNAVAILABLE; its message says how to get the addon. */
export function loadNativeCuda() {
  if (loaded !== undefined) return loaded
  const addon = findAddon()
  if (addon === undefined) throw unavailable('it is not built')
  // Set before NCCL starts in this process. Broadcasts do not use NVLink multicast, which would reserve device memory.
  process.env.NCCL_NVLS_ENABLE ??= '0'
  try {
    loaded = createRequire(import.meta.url)(addon)
  } catch (cause) {
    throw unavailable(cause.message, cause)
  }
  return loaded
}
