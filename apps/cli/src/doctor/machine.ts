import { arch, availableParallelism, platform, release } from 'node:os'
import { ok, required, warn, type Check, type Section } from './check.ts'
import type { SystemFiles } from './system-files.ts'

const NODE_MINIMUM = [20, 17] as const

/** System, processor and NUMA nodes. */
export function machineSection(files: SystemFiles, cpus?: number): Section {
  return { title: 'Machine', checks: [system(files), node(), processor(files, cpus), vectors(files), numa(files)] }
}

function system(files: SystemFiles): Check {
  const name = /^PRETTY_NAME="?(.*?)"?$/m.exec(files.text('/etc/os-release') ?? '')?.[1] ?? platform()
  const { glibcVersionRuntime: glibc } = (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header
  const facts = { name, kernel: release(), arch: arch(), glibc: glibc ?? null }
  const found = `${name}, Linux ${release()}, ${arch()}, ${glibc === undefined ? 'no glibc' : `glibc ${glibc}`}`
  if (platform() === 'linux' && glibc !== undefined) return ok('system', found, facts)
  return required({
    ...warn('system', found, 'run on Linux with glibc (Ubuntu, Debian, RHEL; not Alpine)', facts),
    status: 'missing',
  })
}

function node(): Check {
  const [major, minor] = process.versions.node.split('.').map(Number) as [number, number]
  const found = `${process.version} at ${process.execPath}`
  const facts = { version: process.version, path: process.execPath }
  if (major > NODE_MINIMUM[0] || (major === NODE_MINIMUM[0] && minor >= NODE_MINIMUM[1])) return ok('node', found, facts)
  const remedy = `install Node ${NODE_MINIMUM.join('.')} or newer, or use a bundle that includes it`
  return required({ ...warn('node', found, remedy, facts), status: 'missing' })
}

/** `quota`: CPUs left by affinity and control groups, according to the host addon. */
function processor(files: SystemFiles, quota: number | undefined): Check {
  const info = files.text('/proc/cpuinfo') ?? ''
  const model = /^model name\s*:\s*(.*)$/m.exec(info)?.[1] ?? 'unknown model'
  const cores = [...info.matchAll(/^processor\s*:/gm)].length
  const usable = availableParallelism()
  const facts = { model, cores, usable, quota: quota ?? null }
  const limits = [
    usable < cores ? `${usable} for this process` : '',
    quota === undefined || quota >= usable ? '' : `${quota} by the control groups' quota`,
  ]
  const found = [`${model}, ${cores} cores`, ...limits.filter((text) => text !== '')].join(', ')
  if (Math.min(usable, quota ?? usable) >= 2) return ok('cpu', found, facts)
  return warn('cpu', found, 'give the container at least 2 cores per rank: one copies while another serves the worker', facts)
}

function vectors(files: SystemFiles): Check {
  const flags = new Set((/^flags\s*:\s*(.*)$/m.exec(files.text('/proc/cpuinfo') ?? '')?.[1] ?? '').split(' '))
  const present = ['avx', 'avx2', 'avx512f', 'avx512bw', 'amx_tile'].filter((flag) => flags.has(flag))
  const facts = { flags: present }
  if (present.includes('avx2')) return ok('avx', present.join(' '), facts)
  return warn(
    'avx',
    present.join(' ') || 'none',
    'no AVX2: copies and digests run slower; there is no remedy in software',
    facts,
  )
}

function numa(files: SystemFiles): Check {
  const nodes = files
    .list('/sys/devices/system/node')
    .filter((name) => /^node\d+$/.test(name))
    .map((name) => ({ node: Number(name.slice(4)), cpus: files.text(`/sys/devices/system/node/${name}/cpulist`) ?? '' }))
  const found =
    nodes.length === 0 ? 'not reported by the system' : nodes.map(({ node: id, cpus }) => `node ${id}: CPUs ${cpus}`).join('; ')
  const facts = { nodes }
  const confined = /^Seccomp:\s*2$/m.test(files.text('/proc/self/status') ?? '') && !hasCapability(files, SYS_NICE)
  if (nodes.length < 2 || !confined) return ok('numa', found, facts)
  const remedy = "a container's system call filter may refuse binding memory to a node: docker run --cap-add SYS_NICE"
  return warn('numa', found, remedy, facts)
}

const SYS_NICE = 23

/** Returns true if this process has a capability, by its number in linux/capability.h. */
export function hasCapability(files: SystemFiles, number: number): boolean {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(files.text('/proc/self/status') ?? '')?.[1]
  return mask !== undefined && (BigInt(`0x${mask}`) & (1n << BigInt(number))) !== 0n
}
