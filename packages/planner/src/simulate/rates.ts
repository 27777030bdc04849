import { CkptError } from '@ckpt/contract'

/**
 * Capacities of a machine's parts for the simulator. Rates in bytes per second, sizes in bytes, times in seconds. Measured ones
 * come from a profile, others are named in {@link topology}.
 */
export interface Rates {
  readonly name: string
  /** Source of the figures. */
  readonly source: string
  readonly gpusPerHost: number
  readonly nicsPerHost: number
  /** Rate from host memory to one GPU over its link while all GPUs of the host are busy. */
  readonly h2dRate: number
  /** The same for rows of a few hundred bytes, gathered from mapped host memory. */
  readonly gatherRate: number
  /** Rate of a host's memory for all links together. */
  readonly hostMemoryRate: number
  /** Rate of a broadcast to each GPU inside a host. */
  readonly peerRate: number
  /** Rate of one NIC, one direction. */
  readonly nicRate: number
  /** True if NICs write into GPU memory; otherwise arriving bytes pass through host memory and the GPU's link. */
  readonly nicToGpu: boolean
  /** Payload of copies inside a GPU: the engine's reload. */
  readonly copyRate: number
  /** Time that the engine's loader spends on each tensor in addition to the bytes. */
  readonly tensorSeconds: number
  /** Time that a bucket costs in addition to the bytes: messages, launches. */
  readonly bucketSeconds: number
  /** Time that an update costs in addition to the pipeline: begin, plan, attach, votes, commit. */
  readonly updateSeconds: number
  /** Time to create communicator and buffers again. */
  readonly communicatorSeconds: number
  readonly bucketBytes: number
  readonly chunkBytes: number
  /** Free memory of a GPU. */
  readonly freeDeviceBytes: number
  /**
   * Number of processors, if there are no links and they do everything. Rates then are those of one processor while all are
   * busy (`nicRate` of both ends of a connection together), and `tensorSeconds`, `bucketSeconds` and `updateSeconds` are
   * processor time per rank.
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

/** Fraction of a GPU's memory bandwidth that copies reach as payload: 2.1 of 4.8 TB/s on an H200, measured. */
const COPY_SHARE = 2.1 / 4.8
/**
 * Fraction of NVLink's rate in one direction that broadcasts of 128 to 256 MiB reach: 354 of 450 GB/s on two H200s, measured.
 */
const PEER_SHARE = 354 / 450
/** PCIe 5 x16 from pinned memory: 55.4 GB/s on an H200, measured. */
const PCIE5 = 55.4e9

const gpu = (nvlinkBothWays: number, memoryRate: number, memoryGib: number): Gpu => ({
  h2dRate: PCIE5,
  peerRate: (nvlinkBothWays / 2) * PEER_SHARE,
  copyRate: memoryRate * COPY_SHARE,
  freeDeviceBytes: memoryGib * 0.15 * GIB,
})

/** Two sockets of DDR5 at about three quarters of their channels' rate. An assumption. */
const HOST_MEMORY = 460e9

/** NVLink (both directions), memory bandwidth and size from NVIDIA's data sheets. */
const GPUS: Readonly<Record<string, Gpu>> = {
  h20: gpu(900e9, 4.0e12, 96),
  h100: gpu(900e9, 3.35e12, 80),
  h200: gpu(900e9, 4.8e12, 141),
  h800: gpu(400e9, 3.35e12, 80),
}

/** Time that an engine's loader spends on a tensor, in addition to the copies. */
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

/** Fraction of a NIC's nominal rate that large one-sided transfers reach. An assumption: none was available to measure. */
const NIC_SHARE = 0.96

/**
 * Returns rates of a cluster by name: `GPU-NxRATEg`, hosts of eight GPUs of that type and N NICs of RATE Gb/s, as in
 * `h20-8x400g`; GPU is one of h20, h100, h200, h800. Links, NVLink and copies are scaled from measurements of two H200s, in
 * proportion to the data sheets.
 *
 * @param loader One of {@link LOADERS}.
 * @throws CkptError `INVALID_ARGUMENT` naming the known ones.
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
    bucketSeconds: 0, // included in tensorSeconds: the worker's whole time was measured
    updateSeconds: 10e-3,
    communicatorSeconds: 0.2, // attaching again took 0.18, 0.20 and 0.23 s in three runs on two H200s
    bucketBytes: 128 * MIB,
    chunkBytes: 32 * MIB,
  }
}
