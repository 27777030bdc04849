import { accessSync, constants, existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Programs that create and run the VM, and the Debian package of each. */
const PROGRAMS: readonly (readonly [program: string, debianPackage: string])[] = [
  ['qemu-system-x86_64', 'qemu-system-x86'],
  ['cpio', 'cpio'],
  ['modprobe', 'kmod'],
  ['depmod', 'kmod'],
  ['busybox', 'busybox-static'],
  ['xz', 'xz-utils'],
  ['dpkg-deb', 'dpkg'],
  ['rdma', 'iproute2'],
  ['tc', 'iproute2'],
  ['ib_read_bw', 'perftest'],
]
const FOLDERS = ['/usr/sbin', '/usr/bin', '/sbin', '/bin']

/** Returns the reason why the VM cannot run on this machine; undefined if nothing is missing. Downloads are not checked. */
export function missingForVm(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return `it runs on Linux x64; this is ${process.platform} ${process.arch}`
  const packages = new Set(PROGRAMS.filter(([program]) => programPath(program) === undefined).map(([, name]) => name))
  if (!existsSync('/etc/libibverbs.d/rxe.driver')) packages.add('ibverbs-providers')
  if (packages.size > 0) return `missing packages: apt-get install -y --no-install-recommends ${[...packages].join(' ')}`
  return undefined
}

/** Returns the path of a program; undefined if it is not installed. */
export function programPath(program: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter).filter(Boolean), ...FOLDERS]
  return folders.map((folder) => join(folder, program)).find(executable)
}

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
