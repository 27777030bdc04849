import { describe, expect, it } from 'vitest'

import { rendezvousOptionsFromEnv } from './env.ts'
import { launchedBy, type Launched } from './launchers.ts'

const SRUN = {
  SLURM_JOB_ID: '77',
  SLURM_STEP_ID: '3',
  SLURM_PROCID: '9',
  SLURM_STEP_NUM_TASKS: '12',
  SLURM_STEP_NUM_NODES: '2',
  SLURM_STEP_TASKS_PER_NODE: '8,4',
  SLURM_STEP_NODELIST: 'gpu[07-08],login',
  SLURM_LOCALID: '1',
  SLURM_NODEID: '1',
}
const MPIRUN = {
  OMPI_COMM_WORLD_RANK: '3',
  OMPI_COMM_WORLD_SIZE: '4',
  OMPI_COMM_WORLD_LOCAL_RANK: '1',
  OMPI_COMM_WORLD_LOCAL_SIZE: '2',
  PMIX_NAMESPACE: 'prterun-host-1@1',
}
const LWS = { LWS_LEADER_ADDRESS: 'set-0.set.default', LWS_GROUP_SIZE: '3', LWS_WORKER_INDEX: '2' }

describe('the launcher of a rank', () => {
  it.each<[string, Record<string, string>, Partial<Launched>]>([
    [
      'torchrun',
      { RANK: '5', WORLD_SIZE: '8', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '4', GROUP_RANK: '1' },
      { launcher: 'RANK', rank: 5, worldSize: 8, localRank: 1, localWorldSize: 4, node: 1 },
    ],
    [
      'Ray Train',
      { RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', NODE_RANK: '1', MASTER_ADDR: '10.0.0.1' },
      { launcher: 'RANK', rank: 3, worldSize: 4, localRank: 1, localWorldSize: 2, node: 1 },
    ],
    [
      'a pod of a JobSet',
      { JOB_COMPLETION_INDEX: '1', WORLD_SIZE: '2', JOBSET_NAME: 'update', MASTER_ADDR: 'update-ranks-0-0.update' },
      { launcher: 'Kubernetes', rank: 1, worldSize: 2, localRank: 0, localWorldSize: 1, node: 1 },
    ],
    ['RANK alone', { RANK: '1', WORLD_SIZE: '2' }, { rank: 1, worldSize: 2, localRank: 0, localWorldSize: 2, node: 0 }],
    ['srun', SRUN, { launcher: 'srun', rank: 9, worldSize: 12, localRank: 1, localWorldSize: 4, node: 1, masterAddr: 'gpu07' }],
    ['srun on one node', { ...SRUN, SLURM_STEP_NUM_NODES: '1' }, { masterAddr: 'localhost', run: '77.3' }],
    ['mpirun', MPIRUN, { launcher: 'mpirun', rank: 3, worldSize: 4, localRank: 1, localWorldSize: 2, node: 1 }],
    ['mpirun on one node', { ...MPIRUN, OMPI_COMM_WORLD_LOCAL_SIZE: '4' }, { masterAddr: 'localhost', node: 0 }],
    ['mpirun in a step of Slurm', { ...SRUN, ...MPIRUN }, { launcher: 'mpirun', rank: 3 }],
    [
      'a LeaderWorkerSet',
      LWS,
      { launcher: 'LeaderWorkerSet', rank: 2, worldSize: 3, localWorldSize: 1, node: 2, masterAddr: 'set-0.set.default' },
    ],
    [
      'an indexed Job',
      { JOB_COMPLETION_INDEX: '1', WORLD_SIZE: '2' },
      { launcher: 'Kubernetes', rank: 1, worldSize: 2, node: 1 },
    ],
    ['RANK before all others', { ...SRUN, ...MPIRUN, RANK: '0', WORLD_SIZE: '2' }, { launcher: 'RANK', rank: 0 }],
  ])('is %s', (_, env, expected) => {
    expect(launchedBy(env)).toMatchObject(expected)
  })

  it.each([
    {},
    // A batch script, not one of its steps.
    { SLURM_PROCID: '0', SLURM_NTASKS: '8', SLURM_JOB_ID: '77' },
    { JOB_COMPLETION_INDEX: '1' },
    { OMPI_COMM_WORLD_RANK: 'x', OMPI_COMM_WORLD_SIZE: '2' },
  ])('is none with %o', (env) => {
    expect(launchedBy(env)).toBeUndefined()
    expect(rendezvousOptionsFromEnv(env)).toMatchObject({ rank: 0, worldSize: 1 })
  })

  it('is not believed if it contradicts itself', () => {
    expect(() => launchedBy({ ...MPIRUN, OMPI_COMM_WORLD_RANK: '4' })).toThrow(/mpirun started this process as rank 4/)
  })
})

describe('ranks of such a launcher', () => {
  it.each([
    ['srun', { ...SRUN, SLURM_STEP_NUM_NODES: '1' }, 'SLURM_STEP_ID'],
    ['mpirun', { ...MPIRUN, OMPI_COMM_WORLD_LOCAL_SIZE: '4' }, 'PMIX_NAMESPACE'],
  ])('%s: meet at ports of their run on the loopback interface', (_, env, run) => {
    const { address, alternatives = [], run: name, ...own } = rendezvousOptionsFromEnv(env)
    for (const one of [address!, ...alternatives]) expect(one).toMatch(/^tcp:\/\/localhost:(2\d|3[012])\d{3}$/)
    expect(alternatives.length).toBeGreaterThan(4)
    expect(own).toEqual({ rank: launchedBy(env)!.rank, worldSize: launchedBy(env)!.worldSize })
    expect(rendezvousOptionsFromEnv({ ...env, [run]: 'another' }).run).not.toBe(name)
  })

  it('meet at the first node, or where MASTER_ADDR and MASTER_PORT say', () => {
    expect(rendezvousOptionsFromEnv(SRUN).address).toMatch(/^tcp:\/\/gpu07:/)
    expect(rendezvousOptionsFromEnv(LWS).address).toBe('tcp://set-0.set.default:29500')
    const given = { ...SRUN, MASTER_ADDR: '10.0.0.1', MASTER_PORT: '1234' }
    expect(rendezvousOptionsFromEnv(given)).toEqual({ rank: 9, worldSize: 12, address: 'tcp://10.0.0.1:1234' })
  })

  it('are told what is missing where the launcher does not name the machine of rank 0', () => {
    expect(() => rendezvousOptionsFromEnv(MPIRUN)).toThrow(/MASTER_ADDR.*mpirun does not name the machine of rank 0/)
    expect(() => rendezvousOptionsFromEnv({ JOB_COMPLETION_INDEX: '1', WORLD_SIZE: '2' })).toThrow(/MASTER_ADDR/)
  })

  it('do as they are told where rank and world size are given', () => {
    const options = rendezvousOptionsFromEnv(SRUN, { rank: 0, worldSize: 1 })
    expect(options).toEqual({ rank: 0, worldSize: 1, address: 'tcp://127.0.0.1:29500' })
  })
})
