import type { MemoryLimit } from '@ckpt/contract'
import type { CudaProbe } from '@ckpt/native-cuda'
import { loadUcx, ucxBuildInfo, type UcxProbe } from '@ckpt/native-ucx'
import { loadRdma, rdmaBuildInfo, type RdmaProbe } from '@ckpt/rdma-core-bindings'
import { hostAddon } from './addon.ts'
import { cudaAddon, probeCuda } from './cuda/addon.ts'
import { chooseNics, type RdmaChoice } from './rdma/choose.ts'
import { probeRdma } from './rdma/probe.ts'
import { endsProcesses, probeUcx } from './ucx/endpoint.ts'

/** Availability of one of the native addons here. */
export interface AddonFacts {
  readonly name: 'host' | 'cuda' | 'rdma' | 'ucx'
  /** Reason why it cannot be loaded, with a remedy; undefined if it is loaded. */
  readonly problem: string | undefined
  /** Optional inputs that were missing at its build: `libibverbs` (no RDMA), `libucx` (no UCX), `nvcc` (no kernels). */
  readonly without: readonly string[]
}

/** Limits of this process. */
export interface HostLimits {
  /** Limits on memory: the kernel's estimate, and the control groups with their ancestors; the tightest first. */
  readonly memory: readonly MemoryLimit[]
  /** Number of CPUs that it can keep busy: those it may run on, or the control groups' quota, rounded up. */
  readonly cpus: number
}

/** The UCX library here. */
export interface UcxFacts extends UcxProbe {
  /** True if `CKPT_WIRE=auto` does not use it, because it can end the process when a connection fails. */
  readonly endsProcesses: boolean
}

/** Facts about this machine from the native side. */
export interface NodeFacts {
  readonly addons: readonly AddonFacts[]
  /** Limits on this process's memory and time, from the host addon; undefined if that cannot be loaded. */
  readonly limits: HostLimits | undefined
  /** Driver, NCCL, kernels and GPUs; undefined if the CUDA addon cannot be loaded. */
  readonly cuda: CudaProbe | undefined
  /** libibverbs and devices; undefined if the RDMA addon cannot be loaded. */
  readonly rdma: RdmaProbe | undefined
  /** The UCX library; undefined if the UCX addon cannot be loaded. */
  readonly ucx: UcxFacts | undefined
  /** The ports that would be used, or the reason why none can be; undefined without devices. */
  readonly rdmaChoice: RdmaChoice | { readonly problem: string } | undefined
}

/** Loads every addon and queries it for the facts of this machine. Missing parts are reported, never thrown. */
export async function nodeFacts(env: Readonly<Record<string, string | undefined>> = process.env): Promise<NodeFacts> {
  const addons = [
    addonFacts('host', hostAddon, NOTHING),
    addonFacts('cuda', cudaAddon, () => cudaAddon().buildInfo),
    addonFacts('rdma', loadRdma, rdmaBuildInfo),
    addonFacts('ucx', loadUcx, ucxBuildInfo),
  ]
  const [host, cuda, rdma, ucx] = addons
  const found = rdma!.problem === undefined ? await probeRdma() : undefined
  return {
    addons,
    limits: host!.problem === undefined ? hostLimits() : undefined,
    cuda: cuda!.problem === undefined ? await probeCuda() : undefined,
    rdma: found,
    ucx: ucx!.problem === undefined ? await ucxFacts() : undefined,
    rdmaChoice: found === undefined || found.devices.length === 0 ? undefined : choiceOf(found, env),
  }
}

async function ucxFacts(): Promise<UcxFacts> {
  const found = await probeUcx()
  return { ...found, endsProcesses: found.version !== undefined && endsProcesses(found.version) }
}

function hostLimits(): HostLimits {
  const addon = hostAddon()
  return { memory: addon.memoryLimits(), cpus: addon.usableCpus() }
}

function choiceOf({ devices }: RdmaProbe, env: Readonly<Record<string, string | undefined>>): NodeFacts['rdmaChoice'] {
  try {
    return chooseNics(devices, env)
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) }
  }
}

const NOTHING = () => ({ without: [] })

function addonFacts(
  name: AddonFacts['name'],
  load: () => unknown,
  build: () => { readonly without: readonly string[] } | undefined,
): AddonFacts {
  try {
    load()
    // An addon from before this feature was built with everything, or reports it when asked for more.
    return { name, problem: undefined, without: build()?.without ?? [] }
  } catch (error) {
    return { name, without: [], problem: error instanceof Error ? error.message : String(error) }
  }
}
