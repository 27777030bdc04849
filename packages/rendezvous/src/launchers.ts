import { CkptError, type Environment } from '@ckpt/contract'

/** Place of one process in a job, as its launcher describes it. */
export interface Launched {
  /** Program that started the ranks, for messages; `RANK` if it set the variables of torch.distributed. */
  readonly launcher: 'RANK' | 'mpirun' | 'srun' | 'LeaderWorkerSet' | 'Kubernetes'
  readonly rank: number
  readonly worldSize: number
  /** Index among the ranks of this machine. */
  readonly localRank: number
  /** Number of ranks on this machine. */
  readonly localWorldSize: number
  /** Index of this machine. */
  readonly node: number
  /** Machine of rank 0, if the launcher names it. */
  readonly masterAddr?: string
  /** Text that is equal on all ranks of this run and different in other runs, if the launcher has one. */
  readonly run?: string
}

const DETECTORS = [fromRank, fromMpirun, fromSrun, fromLeaderWorkerSet, fromIndexedJob]

/**
 * Returns the place of this process in a job of torchrun (or anything else that sets RANK), Open MPI's mpirun, srun, a
 * LeaderWorkerSet, or an indexed Job of Kubernetes with WORLD_SIZE set. Undefined outside of these.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the variable that contradicts the others.
 */
export function launchedBy(env: Environment): Launched | undefined {
  for (const detect of DETECTORS) {
    const found = detect(env)
    if (found !== undefined) return checked(found)
  }
  return undefined
}

/** RANK is checked by `rendezvousOptionsFromEnv`: here a missing or broken one is only not used. */
function fromRank(env: Environment): Launched | undefined {
  const rank = whole(env['RANK'])
  if (rank === undefined) return undefined
  const worldSize = whole(env['WORLD_SIZE']) ?? rank + 1
  const localWorldSize = whole(env['LOCAL_WORLD_SIZE'])
  const localRank = whole(env['LOCAL_RANK']) ?? (localWorldSize === undefined ? 0 : rank % localWorldSize)
  const node = whole(env['GROUP_RANK']) ?? whole(env['NODE_RANK']) ?? Math.floor(rank / (localWorldSize ?? worldSize))
  return { launcher: 'RANK', rank, worldSize, localRank, localWorldSize: localWorldSize ?? worldSize, node }
}

/** Open MPI: https://docs.open-mpi.org/en/main/launching-apps/index.html, "environment variables". */
function fromMpirun(env: Environment): Launched | undefined {
  const rank = whole(env['OMPI_COMM_WORLD_RANK'])
  const worldSize = whole(env['OMPI_COMM_WORLD_SIZE'])
  if (rank === undefined || worldSize === undefined) return undefined
  const localWorldSize = whole(env['OMPI_COMM_WORLD_LOCAL_SIZE']) ?? worldSize
  const run = env['PMIX_NAMESPACE'] ?? env['OMPI_MCA_ess_base_jobid'] ?? env['OMPI_MCA_orte_hnp_uri']
  return {
    launcher: 'mpirun',
    rank,
    worldSize,
    localRank: whole(env['OMPI_COMM_WORLD_LOCAL_RANK']) ?? rank % localWorldSize,
    localWorldSize,
    node: Math.floor(rank / localWorldSize),
    ...(localWorldSize === worldSize && { masterAddr: 'localhost' }),
    ...(run !== undefined && { run }),
  }
}

/** A step of Slurm: a batch script itself has SLURM_PROCID too, but not the variables of a step (srun(1)). */
function fromSrun(env: Environment): Launched | undefined {
  const rank = whole(env['SLURM_PROCID'])
  const worldSize = whole(env['SLURM_STEP_NUM_TASKS'])
  if (rank === undefined || worldSize === undefined) return undefined
  const nodes = whole(env['SLURM_STEP_NUM_NODES']) ?? 1
  const localWorldSize = tasksOf(env['SLURM_STEP_TASKS_PER_NODE'], whole(env['SLURM_NODEID']) ?? 0) ?? worldSize / nodes
  const masterAddr = nodes === 1 ? 'localhost' : firstHost(env['SLURM_STEP_NODELIST'] ?? env['SLURM_JOB_NODELIST'])
  return {
    launcher: 'srun',
    rank,
    worldSize,
    localRank: whole(env['SLURM_LOCALID']) ?? 0,
    localWorldSize,
    node: whole(env['SLURM_NODEID']) ?? 0,
    ...(masterAddr !== undefined && { masterAddr }),
    run: `${env['SLURM_JOB_ID'] ?? ''}.${env['SLURM_STEP_ID'] ?? ''}`,
  }
}

/** A group of a LeaderWorkerSet, one pod a machine: LWS_LEADER_ADDRESS, LWS_GROUP_SIZE, LWS_WORKER_INDEX. */
function fromLeaderWorkerSet(env: Environment): Launched | undefined {
  const rank = whole(env['LWS_WORKER_INDEX'])
  const worldSize = whole(env['LWS_GROUP_SIZE'])
  if (rank === undefined || worldSize === undefined) return undefined
  const masterAddr = env['LWS_LEADER_ADDRESS']
  return { ...pod('LeaderWorkerSet', rank, worldSize), ...(masterAddr !== undefined && { masterAddr }) }
}

/** An indexed Job (or JobSet) tells a pod its index; the number of pods comes from the pod's spec, as WORLD_SIZE. */
function fromIndexedJob(env: Environment): Launched | undefined {
  const rank = whole(env['JOB_COMPLETION_INDEX'])
  const worldSize = whole(env['WORLD_SIZE'])
  return rank === undefined || worldSize === undefined ? undefined : pod('Kubernetes', rank, worldSize)
}

function pod(launcher: Launched['launcher'], rank: number, worldSize: number): Launched {
  return { launcher, rank, worldSize, localRank: 0, localWorldSize: 1, node: rank }
}

function checked(found: Launched): Launched {
  const { launcher, rank, worldSize } = found
  if (launcher === 'RANK' || rank < worldSize) return found
  const text = `${launcher} started this process as rank ${rank}, which is not below its number of ranks, ${worldSize}`
  throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'WORLD_SIZE' } })
}

/** Number of tasks of a node in a list such as `2(x3),1`. */
function tasksOf(list: string | undefined, node: number): number | undefined {
  let first = 0
  for (const part of list?.split(',') ?? []) {
    const match = /^(\d+)(?:\(x(\d+)\))?$/.exec(part)
    if (match === null) return undefined
    first += Number(match[2] ?? 1)
    if (node < first) return Number(match[1])
  }
  return undefined
}

/** First host of a list such as `gpu[07-09,12],login`. */
function firstHost(list: string | undefined): string | undefined {
  const match = /^([^,[\]]+)(?:\[(\d+)[^\]]*\]([^,]*))?/.exec(list ?? '')
  return match === null ? undefined : `${match[1]}${match[2] ?? ''}${match[3] ?? ''}`
}

function whole(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined
}
