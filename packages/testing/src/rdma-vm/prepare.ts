import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { makeImage } from './image.ts'
import { fetchKernel } from './kernel.ts'
import type { VmFiles } from './vm.ts'

/** Sources of the image besides the kernel: it is made again when one of these changes. */
const SOURCES = ['./image.ts', './kernel.ts', './guest/init.sh']

/**
 * Returns kernel and first file system of the guest; made once, some 75 MB, and kept in `cache`.
 *
 * @throws Error if the kernel cannot be downloaded.
 */
export function prepareVm(cache: string, log: (text: string) => void): VmFiles {
  const hash = createHash('sha256')
  for (const source of SOURCES) hash.update(readFileSync(new URL(source, import.meta.url)))
  const key = hash.digest('hex').slice(0, 16)
  const folder = join(cache, key)
  const files = { kernel: join(folder, 'vmlinux'), initrd: join(folder, 'initrd.img') }
  if (existsSync(join(folder, 'complete'))) return files

  const start = performance.now()
  log('making the guest (once) …')
  const part = `${folder}.part-${process.pid}`
  rmSync(part, { recursive: true, force: true })
  mkdirSync(part, { recursive: true })
  try {
    const kernel = fetchKernel(part)
    makeImage(kernel, part, join(part, 'initrd.img'))
    if (kernel.image !== join(part, 'vmlinux')) renameSync(kernel.image, join(part, 'vmlinux'))
    rmSync(kernel.root, { recursive: true, force: true })
    writeFileSync(join(part, 'complete'), `${kernel.version}\n`)
    rmSync(folder, { recursive: true, force: true })
    renameSync(part, folder)
  } finally {
    rmSync(part, { recursive: true, force: true })
  }
  log(`made in ${((performance.now() - start) / 1000).toFixed(0)} s`)
  return files
}
