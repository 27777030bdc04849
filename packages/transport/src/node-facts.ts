import type { CudaProbe } from '@ckpt/native-cuda'
import { hostAddon } from './addon.ts'
import { cudaAddon, probeCuda } from './cuda/addon.ts'

/** Whether one of the native addons can be used here. */
export interface AddonFacts {
  readonly name: 'host' | 'cuda'
  /** Why it cannot be loaded, with what helps; undefined where it is loaded. */
  readonly problem: string | undefined
}

/** What the native side knows of this machine. */
export interface NodeFacts {
  readonly addons: readonly AddonFacts[]
  /** Driver, NCCL, kernels and GPUs; undefined where the CUDA addon cannot be loaded. */
  readonly cuda: CudaProbe | undefined
}

/** Loads every addon and asks it what this machine has. What is missing is told, never thrown. */
export async function nodeFacts(): Promise<NodeFacts> {
  const addons = [addonFacts('host', hostAddon), addonFacts('cuda', cudaAddon)]
  return { addons, cuda: addons[1]!.problem === undefined ? await probeCuda() : undefined }
}

function addonFacts(name: AddonFacts['name'], load: () => unknown): AddonFacts {
  try {
    load()
    return { name, problem: undefined }
  } catch (error) {
    return { name, problem: error instanceof Error ? error.message : String(error) }
  }
}
