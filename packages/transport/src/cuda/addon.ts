import { loadNativeCuda, type CudaProbe, type NativeCuda } from '@ckpt/native-cuda'
import { fromNative, native } from '../addon.ts'

/** The CUDA addon. @throws CkptError `ADDON_UNAVAILABLE`; the message says how to get it. */
export function cudaAddon(): NativeCuda {
  try {
    return loadNativeCuda()
  } catch (error) {
    throw fromNative(error)
  }
}

/**
 * What this machine has for CUDA devices: driver, NCCL, kernels, GPUs, and what is missing, with the paths tried.
 *
 * @throws CkptError `ADDON_UNAVAILABLE` when the addon itself is not built.
 */
export async function probeCuda(): Promise<CudaProbe> {
  return native(() => cudaAddon().probe())
}
