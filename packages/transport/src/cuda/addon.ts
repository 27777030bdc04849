import { loadNativeCuda, type CudaProbe, type NativeCuda } from '@ckpt/native-cuda'
import { fromNative, native } from '../addon.ts'

/** The CUDA addon. @throws CkptError `ADDON_UNAVAILABLE`; the message tells how to get it. */
export function cudaAddon(): NativeCuda {
  try {
    return loadNativeCuda()
  } catch (error) {
    throw fromNative(error)
  }
}

/**
 * Returns the CUDA support of this machine: driver, NCCL, kernels, GPUs, and what is missing, with the tried paths.
 *
 * @throws CkptError `ADDON_UNAVAILABLE` if the addon itself is not built.
 */
export async function probeCuda(): Promise<CudaProbe> {
  return native(() => cudaAddon().probe())
}
