import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { programPath } from './needs.ts'

/** Kernel to boot, and the folder of its modules. */
export interface Kernel {
  readonly version: string
  /** An uncompressed kernel if it could be extracted from the image, which boots in half the time. */
  readonly image: string
  /** A folder that contains `lib/modules/VERSION`. */
  readonly root: string
}

const DOWNLOAD_MS = 180_000
// https://docs.kernel.org/arch/x86/boot.html, "The Real-Mode Kernel Header"
const SETUP_SECTORS = 0x1f1
const PAYLOAD_OFFSET = 0x248
const PAYLOAD_LENGTH = 0x24c
const SECTOR = 512
const XZ_MAGIC = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00])

/**
 * Debian's own kernel, which has `rdma_rxe` (its *cloud* kernel does not), downloaded with apt and unpacked in `folder`.
 * Nothing is installed.
 *
 * @throws Error if apt cannot download it.
 */
export function fetchKernel(folder: string): Kernel {
  mkdirSync(folder, { recursive: true })
  const name = kernelPackage() ?? (updateLists() ? kernelPackage() : undefined)
  if (name === undefined) throw new Error('apt does not know linux-image-amd64: run apt-get update')
  execFileSync('apt-get', ['download', '-q', name], { cwd: folder, stdio: 'pipe', timeout: DOWNLOAD_MS })
  const archive = readdirSync(folder).find((file) => file.startsWith(name) && file.endsWith('.deb'))
  if (archive === undefined) throw new Error(`apt-get download ${name} left no file`)
  const root = join(folder, 'kernel')
  execFileSync('dpkg-deb', ['-x', join(folder, archive), root])
  rmSync(join(folder, archive))
  const version = readdirSync(join(root, 'lib/modules'))[0]
  if (version === undefined) throw new Error(`${name} has no modules`)
  execFileSync(programPath('depmod') ?? 'depmod', ['-b', root, version])
  const compressed = join(root, 'boot', `vmlinuz-${version}`)
  const image = join(folder, 'vmlinux')
  return { version, image: uncompress(compressed, image) ? image : compressed, root }
}

/** Package of the kernel; undefined if apt does not know it. */
function kernelPackage(): string | undefined {
  try {
    const depends = execFileSync('apt-cache', ['depends', 'linux-image-amd64'], { encoding: 'utf8', stdio: 'pipe' })
    return /Depends: (linux-image-[^\s<>]+)/.exec(depends)?.[1]
  } catch {
    return undefined
  }
}

/** A fresh machine has no package lists. Only root may download them. */
function updateLists(): boolean {
  if (process.getuid?.() !== 0) return false
  execFileSync('apt-get', ['update', '-qq'], { stdio: 'pipe', timeout: DOWNLOAD_MS })
  return true
}

/** Extracts the kernel from a bzImage. Returns false if it is not packed with xz. */
function uncompress(from: string, to: string): boolean {
  const file = readFileSync(from)
  const start = (file.readUInt8(SETUP_SECTORS) + 1) * SECTOR + file.readUInt32LE(PAYLOAD_OFFSET)
  const payload = file.subarray(start, start + file.readUInt32LE(PAYLOAD_LENGTH))
  if (!payload.subarray(0, XZ_MAGIC.length).equals(XZ_MAGIC)) return false
  // The payload ends with the size of its contents, which is not part of the xz stream.
  writeFileSync(to, execFileSync('xz', ['--single-stream', '-dc'], { input: payload, maxBuffer: 1 << 30 }))
  return existsSync(to)
}
