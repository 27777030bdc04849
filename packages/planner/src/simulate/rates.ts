import { CkptError } from '@ckpt/contract'

/**
 * What the parts of a machine carry, as the simulator takes it. Rates in bytes per second, sizes in bytes, times in seconds.
 * Measured ones come from a profile, others are named in {@link topology}.
 */
export interface Rates {
  readonly name: string
  /** Where the figures come from. */
  readonly source: string
  readonly gpusPerHost: number
  readonly nicsPerHost: number
  /** Host memory to one GPU over its link while all GPUs of the host are busy. */
  readonly h2dRate: number
  /** The same for rows of a few hundred bytes, gathered from mapped host memory. */
  readonly gatherRate: number
  /** What a host's memory gives to all links together. */
  readonly hostMemoryRate: number
  /** What a broadcast brings to each GPU inside a host. */
  readonly peerRate: number
  /** One NIC, one direction. */
  readonly nicRate: number
  /** Whether NICs write into GPU memory; otherwise what arrives passes through host memory and the GPU's link. */
  readonly nicToGpu: boolean
  /** Payload of copies inside a GPU: the engine's reload. */
  readonly copyRate: number
  /** What the engine's loader spends on each tensor beside the bytes. */
  readonly tensorSeconds: number
  /** What a bucket costs beside the bytes: messages, launches. */
  readonly bucketSeconds: number
  /** What an update costs beside the pipeline: begin, plan, attach, votes, commit. */
  readonly updateSeconds: number
  /** Making communicator and buffers again. */
  readonly communicatorSeconds: number
  readonly bucketBytes: number
  readonly chunkBytes: number
  /** Free memory of a GPU. */
  readonly freeDeviceBytes: number
  /**
   * Where there is no link but processors that do everything: how many there are. Rates then are those of one processor while all are
   * busy (`nicRate` of both ends of a connection together), and `tensorSeconds`, `bucketSeconds` and `updateSeconds` are processor time
   * a rank.
   */
  readonly processors?: number
}

const GIB = 2 ** 30
const MIB = 2 ** 20

interface Gpu {
  readonly h2dRate: number
  readonly peerRate: number
  readonly copyRate: number
  readonly freeDeviceBytes: number
}

/** Payload that copies reach of a GPU's memory bandwidth: 2.1 of 4.8 TB/s on an H200, measured. */
const COPY_SHARE = 2.1 / 4.8
/** Broadcasts of 128 to 256 MiB reach this of NVLink's rate in one direction: 354 of 450 GB/s on two H200s, measured. */
const PEER_SHARE = 354 / 450
/** PCIe 5 x16 from pinned memory: 55.4 GB/s on an H200, measured. */
const PCIE5 = 55.4e9

const gpu = (nvlinkBothWays: number, memoryRate: number, memoryGib: number): Gpu => ({
  h2dRate: PCIE5,
  peerRate: (nvlinkBothWays / 2) * PEER_SHARE,
  copyRate: memoryRate * COPY_SHARE,
  freeDeviceBytes: memoryGib * 0.15 * GIB,
})

/** Two sockets of DDR5 at about three quarters of what their channels carry. An assumption. */
const HOST_MEMORY = 460e9

/** NVLink (both directions), memory bandwidth and size as NVIDIA's data sheets give them. */
const GPUS: Readonly<Record<string, Gpu>> = {
  h20: gpu(900e9, 4.0e12, 96),
  h100: gpu(900e9, 3.35e12, 80),
  h200: gpu(900e9, 4.8e12, 141),
  h800: gpu(400e9, 3.35e12, 80),
}

/** What an engine's loader spends on a tensor, beside the copies. */
export const LOADERS: Readonly<Record<string, { readonly tensorSeconds: number; readonly source: string }>> = {
  reference: {
    tensorSeconds: 14.7e-6,
    source: "ckpt's Python reference engine: 191.6 ms for 12,393 tensors on H200s, copies left out",
  },
  vllm: {
    tensorSeconds: 112e-6,
    source:
      'vLLM 0.10.2: taken from one published row of checkpoint-engine, 16.04 s for the 139,644 tensors of Kimi-K2 on 256 H20s',
  },
}

/** Part of a NIC's nominal rate that large one-sided transfers reach. An assumption: none was at hand to measure. */
const NIC_SHARE = 0.96

/**
 * Rates of a cluster by name: `GPU-NxRATEg`, hosts of eight GPUs of that type and N NICs of RATE Gb/s, as in `h20-8x400g`; GPU is one
 * of h20, h100, h200, h800. Links, NVLink and copies are taken from what two H200s measure, in proportion to the data sheets.
 *
 * @param loader One of {@link LOADERS}.
 * @throws CkptError `INVALID_ARGUMENT` naming what is known.
 */
export function topology(name: string, loader = 'reference'): Rates {
  const match = /^([a-z]+\d+)-(\d+)x(\d+)g$/.exec(name.toLowerCase())
  const type = match === null ? undefined : GPUS[match[1]!]
  if (match === null || type === undefined) {
    const known = Object.keys(GPUS).join(', ')
    throw new CkptError(
      'INVALID_ARGUMENT',
      `no topology ${name}: expected GPU-NxRATEg such as h20-8x400g, GPU one of ${known}`,
      {
        fields: { field: 'topology' },
      },
    )
  }
  const engine = LOADERS[loader]
  if (engine === undefined) {
    const known = Object.keys(LOADERS).join(', ')
    throw new CkptError('INVALID_ARGUMENT', `no engine ${loader}: expected one of ${known}`, { fields: { field: 'engine' } })
  }
  const nicsPerHost = Number(match[2])
  const gigabits = Number(match[3])
  return {
    name,
    source: 'two H200s measured, other GPUs in proportion to their data sheets; NICs at 96 % of their nominal rate',
    gpusPerHost: 8,
    nicsPerHost,
    ...type,
    gatherRate: type.h2dRate * (51.3 / 55.4),
    hostMemoryRate: HOST_MEMORY,
    nicRate: (gigabits / 8) * 1e9 * NIC_SHARE,
    nicToGpu: true,
    tensorSeconds: engine.tensorSeconds,
    bucketSeconds: 0, // in tensorSeconds: what was measured is the worker's whole time
    updateSeconds: 10e-3,
    communicatorSeconds: 0.2, // attaching again took 0.18, 0.20 and 0.23 s in three runs on two H200s
    bucketBytes: 128 * MIB,
    chunkBytes: 32 * MIB,
  }
}
