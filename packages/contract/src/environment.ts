import { CkptError } from './errors.ts'

/** Environment variables by name. */
export type Environment = Readonly<Record<string, string | undefined>>

/** All variables that this project reads at run time, including those of launchers and other projects. */
export const VARIABLES = [
  'CKPT_API_KEY',
  'CKPT_BUNDLE',
  'CKPT_CACHE_DIR',
  'CKPT_CONFIG',
  'CKPT_CUDA_LIBRARY',
  'CKPT_DIRECT_ENGINE_BYTES',
  'CKPT_DIRECT_TOGETHER',
  'CKPT_ENGINE',
  'CKPT_ENGINE_KEY',
  'CKPT_ENGINE_KEY_FILE',
  'CKPT_HTTP_TOKEN',
  'CKPT_IBVERBS_LIBRARY',
  'CKPT_INSECURE',
  'CKPT_INTERFACE',
  'CKPT_JOIN_RUN_ID',
  'CKPT_JOIN_TOKEN',
  'CKPT_METRICS_HOST',
  'CKPT_METRICS_PORT',
  'CKPT_NCCL_LIBRARY',
  'CKPT_NODE',
  'CKPT_P2P_ADDRESS',
  'CKPT_P2P_ADVERTISE',
  'CKPT_P2P_ENCRYPT',
  'CKPT_P2P_NICENESS',
  'CKPT_P2P_RDMA',
  'CKPT_P2P_SECRET',
  'CKPT_PUBLISH',
  'CKPT_PUBLISHED',
  'CKPT_PYTHON',
  'CKPT_RUN_ID',
  'CKPT_TOKEN',
  'CKPT_TOKEN_FILE',
  'CKPT_TRUSTED_NETWORK',
  'CKPT_UCX_LIBRARY',
  'CKPT_WIRE',
  'GROUP_RANK',
  'JOB_COMPLETION_INDEX',
  'LOCAL_RANK',
  'LOCAL_WORLD_SIZE',
  'LWS_GROUP_SIZE',
  'LWS_LEADER_ADDRESS',
  'LWS_WORKER_INDEX',
  'MASTER_ADDR',
  'MASTER_PORT',
  'NODE_RANK',
  'OMPI_COMM_WORLD_LOCAL_RANK',
  'OMPI_COMM_WORLD_LOCAL_SIZE',
  'OMPI_COMM_WORLD_RANK',
  'OMPI_COMM_WORLD_SIZE',
  'PS_MAX_BUCKET_SIZE_GB',
  'PS_MEM_FRACTION',
  'PS_P2P_STORE_RDMA_DEVICES',
  'RANK',
  'SLURM_PROCID',
  'SLURM_STEP_NUM_TASKS',
  'TORCHELASTIC_RUN_ID',
  'TORCHELASTIC_USE_AGENT_STORE',
  'WORLD_SIZE',
] as const

/**
 * Value that Kubernetes assigns to variables of its service links (`NAME_PORT` for a service called name). None of our
 * variables has such values.
 */
const SERVICE_LINK = /^(?:tcp|udp|sctp):\/\/[^/]*:\d+$/i

/** Explains why the value of a variable cannot be meant for ckpt; undefined if it can. */
export function serviceLink(name: string, value: string | undefined): string | undefined {
  if (value === undefined || !SERVICE_LINK.test(value)) return undefined
  const service = name.endsWith('_PORT') ? ` "${name.slice(0, -'_PORT'.length).toLowerCase().replaceAll('_', '-')}"` : ''
  return `${name}=${value} is a service link of Kubernetes, made for a service${service}: set enableServiceLinks: false in the pod's spec, or give ${name} a value there`
}

/**
 * @throws CkptError `INVALID_ARGUMENT` for the first variable (default: of all that ckpt reads) that Kubernetes has set to the
 * address of a service.
 */
export function refuseServiceLinks(environment: Environment, names: readonly string[] = VARIABLES): void {
  for (const name of names) {
    const why = serviceLink(name, environment[name])
    if (why !== undefined) throw new CkptError('INVALID_ARGUMENT', why, { fields: { field: name } })
  }
}
