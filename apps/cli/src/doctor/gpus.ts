import type { CudaDeviceInfo, CudaProbe } from '@ckpt/core'
import { formatSize } from '../sizes.ts'
import { missing, ok, warn, type Check, type Section } from './check.ts'
import { parseFree, parseTopology, type SmiOutput } from './nvidia-smi.ts'
import type { SystemFiles } from './system-files.ts'

export interface GpuSources {
  /** Result of the CUDA addon; undefined if it is not loaded. */
  readonly cuda: CudaProbe | undefined
  readonly smi: SmiOutput
  readonly files: SystemFiles
  readonly environment: NodeJS.ProcessEnv
  /** NCCL of a Python environment, which a system without its own can use. */
  readonly pythonNccl: string | undefined
}

/** GPUs, the links between them, and NCCL. */
export function gpusSection(sources: GpuSources): Section {
  const { cuda } = sources
  if (cuda === undefined) {
    const check = missing('gpus', 'unknown: the CUDA addon is not loaded', 'see addon.cuda; the host device works without it')
    return { title: 'GPUs', checks: [check] }
  }
  const checks = [
    driver(cuda),
    gpus(sources, cuda),
    visible(sources, cuda),
    links(sources, cuda),
    places(sources, cuda),
    nccl(sources, cuda),
    kernels(cuda),
  ]
  return { title: 'GPUs', checks: checks.filter((check) => check !== undefined) }
}

function driver({ driver: { available, problem, version, path } }: CudaProbe): Check {
  if (!available) {
    const remedy = 'install the NVIDIA driver; in a container, docker run --gpus all; or set CKPT_CUDA_LIBRARY to libcuda'
    return missing('cuda.driver', problem ?? 'not available', remedy)
  }
  return ok(
    'cuda.driver',
    `for CUDA ${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}, ${path ?? 'libcuda'}`,
    { version, path },
  )
}

function gpus({ smi }: GpuSources, { devices }: CudaProbe): Check {
  if (devices.length === 0)
    return missing('gpus', 'none', 'the host device works without; for GPUs see cuda.driver and CUDA_VISIBLE_DEVICES')
  const free = parseFree(smi.memory)
  const line = (device: CudaDeviceInfo) => {
    const left = free.get(device.uuid)
    const size = `${formatSize(device.totalBytes)}${left === undefined ? '' : `, ${formatSize(left)} free`}`
    const place =
      device.numaNode < 0 ? '' : `, NUMA node ${device.numaNode}${device.cpus === '' ? '' : ` (CPUs ${device.cpus})`}`
    return `${device.index}: ${device.name}, sm_${device.computeCapability}, ${size}, ${device.pciBusId}${place}`
  }
  return ok('gpus', devices.map(line).join('\n'), {
    devices: devices.map((device) => ({ ...device, freeBytes: free.get(device.uuid) ?? null })),
  })
}

/** GPUs that the kernel has in addition to those this process may use. */
function visible({ files, environment }: GpuSources, { devices }: CudaProbe): Check {
  const nodes = files.list('/dev').filter((name) => /^nvidia\d+$/.test(name)).length
  const chosen = environment['CUDA_VISIBLE_DEVICES']
  const found = `${devices.length} of ${nodes} device nodes; CUDA_VISIBLE_DEVICES ${chosen === undefined ? 'is not set' : `is "${chosen}"`}`
  const facts = { deviceNodes: nodes, cudaVisibleDevices: chosen ?? null, usable: devices.length }
  if (devices.length >= nodes || chosen !== undefined) return ok('cuda.visible', found, facts)
  const remedy = 'the driver sees fewer GPUs than exist: check MIG, cgroup device rules, and nvidia-smi'
  return warn('cuda.visible', found, remedy, facts)
}

function links({ smi }: GpuSources, { devices }: CudaProbe): Check | undefined {
  if (devices.length < 2) return undefined
  const topology = parseTopology(smi.topology)
  const pairs = devices.flatMap((a, i) =>
    devices.slice(i + 1).map((b) => {
      const peer = a.peerAccess[b.index] === true && b.peerAccess[a.index] === true
      // nvidia-smi counts all GPUs, so its numbers differ if some are hidden.
      const link = topology.size === devices.length ? topology.get(a.index)?.get(b.index) : undefined
      return { a: a.index, b: b.index, peer, link: link ?? null }
    }),
  )
  const found = pairs
    .map(({ a, b, peer, link }) => `${a}–${b}: ${[link, peer ? 'P2P' : 'no P2P'].filter(Boolean).join(', ')}`)
    .join('; ')
  if (pairs.every(({ peer }) => peer)) return ok('gpu.links', found, { pairs })
  const remedy =
    'broadcasts go through host memory between these: check NVLink and fabric manager, and ACS in the BIOS for PCIe'
  return warn('gpu.links', found, remedy, { pairs })
}

/** Memory node to which threads and pinned memory of a rank are bound: that of its GPU. */
function places({ files }: GpuSources, { devices }: CudaProbe): Check | undefined {
  if (devices.length === 0) return undefined
  const nodes = files.list('/sys/devices/system/node').filter((name) => /^node\d+$/.test(name)).length
  const bound = nodes > 1 ? devices.filter(({ numaNode }) => numaNode >= 0) : []
  const facts = { nodes, bound: bound.map(({ index, numaNode, cpus }) => ({ index, numaNode, cpus })) }
  if (nodes < 2) return ok('gpu.numa', 'one memory node: nothing to bind', facts)
  if (bound.length === 0) return ok('gpu.numa', 'the system does not report the locations of GPUs: nothing is bound', facts)
  const found = bound.map(({ index, numaNode, cpus }) => `${index}: node ${numaNode}, CPUs ${cpus}`).join('; ')
  return ok('gpu.numa', `threads and pinned memory are bound: ${found}`, facts)
}

function nccl({ pythonNccl }: GpuSources, { nccl: { available, problem, version, path } }: CudaProbe): Check {
  if (available) {
    const text = `${Math.floor(version / 10000)}.${Math.floor((version % 10000) / 100)}.${version % 100}, ${path ?? 'libnccl'}`
    return ok('nccl', text, { version, path })
  }
  const remedy =
    pythonNccl === undefined
      ? 'install libnccl2, or set CKPT_NCCL_LIBRARY to a libnccl.so.2 (PyTorch includes one); a single rank works without'
      : `set CKPT_NCCL_LIBRARY=${pythonNccl}`
  return missing('nccl', problem ?? 'not available', remedy, { pythonNccl: pythonNccl ?? null })
}

function kernels({ kernels: { available, problem } }: CudaProbe): Check {
  if (available) return ok('cuda.kernels', 'in the addon')
  return warn(
    'cuda.kernels',
    problem ?? 'not in the addon',
    'build the addon on a machine with nvcc; digests and strided copies on the GPU need it',
  )
}
