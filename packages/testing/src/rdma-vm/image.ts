import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Kernel } from './kernel.ts'
import { programPath } from './needs.ts'

/** Modules of the guest; their dependencies are included. */
const MODULES = [
  'crc32_generic',
  'crc32c_generic',
  'rdma_rxe',
  'rdma_ucm',
  'veth',
  'dummy',
  'virtio_pci',
  'virtio_net',
  '9pnet_virtio',
  '9p',
  'sch_netem',
]
const MERGED = ['bin', 'sbin', 'lib', 'lib64']
/** Created by the kernel or by /init. */
const MOUNT_POINTS = ['proc', 'sys', 'dev', 'usr', 'job', 'tmp', 'run', 'etc']

/** Writes the guest's first file system: modules, configuration of libibverbs, `/init`. Programs come from the host's /usr. */
export function makeImage(kernel: Kernel, folder: string, output: string): void {
  const root = join(folder, 'root')
  rmSync(root, { recursive: true, force: true })
  for (const name of [...MOUNT_POINTS, 'modules', 'box']) mkdirSync(join(root, name), { recursive: true })
  for (const name of MERGED) symlinkSync(`usr/${name}`, join(root, name))

  const modules = moduleFiles(kernel)
  for (const file of modules) copyModule(file, join(root, 'modules', plainName(file)))
  writeFileSync(join(root, 'modules/order'), `${modules.map(plainName).join('\n')}\n`)
  copyFileSync(programPath('busybox')!, join(root, 'box/busybox'))
  copyFileSync(fileURLToPath(new URL('./guest/init.sh', import.meta.url)), join(root, 'init'))

  cpSync('/etc/libibverbs.d', join(root, 'etc/libibverbs.d'), { recursive: true })
  if (existsSync('/etc/ld.so.cache')) copyFileSync('/etc/ld.so.cache', join(root, 'etc/ld.so.cache'))
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/tmp:/bin/sh\n')
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\n')
  writeFileSync(join(root, 'etc/hosts'), '127.0.0.1 localhost\n')
  writeFileSync(join(root, 'etc/nsswitch.conf'), 'hosts: files\n')

  const pack = 'chmod 755 init box/busybox && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 > "$0"'
  execFileSync('sh', ['-c', pack, output], { cwd: root })
  rmSync(root, { recursive: true, force: true })
}

/** Returns files in the order in which they must be loaded. */
function moduleFiles(kernel: Kernel): string[] {
  const files = new Set<string>()
  for (const module of MODULES) {
    let text: string
    try {
      text = execFileSync(
        programPath('modprobe') ?? 'modprobe',
        ['-d', kernel.root, '-S', kernel.version, '--show-depends', module],
        {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'pipe'],
        },
      )
    } catch (error) {
      // Some kernels have these two built in, under a different name.
      if (module.startsWith('crc32')) continue
      throw error
    }
    for (const [, file] of text.matchAll(/^insmod (\S+)/gm)) files.add(file!)
  }
  return [...files]
}

function plainName(file: string): string {
  return basename(file).replace(/[.](xz|zst|gz)$/, '')
}

function copyModule(from: string, to: string): void {
  const program = { xz: 'xz', zst: 'zstd', gz: 'gzip' }[from.slice(from.lastIndexOf('.') + 1)]
  const bytes = program === undefined ? readFileSync(from) : execFileSync(program, ['-dc', from], { maxBuffer: 1 << 28 })
  writeFileSync(to, bytes)
}
