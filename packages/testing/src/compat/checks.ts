import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { probeCuda } from '@ckpt/transport'
import { Cluster } from '../cluster/cluster.ts'
import { randomCheckpoint, type RandomCheckpoint } from './random-checkpoint.ts'

export interface CompatEnvironment {
  /** Interpreter with torch, the worker package and checkpoint-engine. */
  readonly python: string
  /** `stand-in`: the stock worker over host memory (stand_in_cuda.py); `cuda`: no stand-in. */
  readonly backend: 'stand-in' | 'cuda'
}

export interface CompatCheck {
  readonly name: string
  /** Number of ranks, with one device each. */
  readonly ranks: number
  /** @throws AssertionError, or the CkptError of an update that should have succeeded. */
  readonly run: (environment: CompatEnvironment) => Promise<void>
}

/** Program that runs checkpoint-engine's stock worker for tests. */
export const STOCK_WORKER = fileURLToPath(new URL('./check_worker.py', import.meta.url))

/** Without a strategy: the default one must suit these workers. */
const PROTOCOL = { protocol: 'checkpoint-engine', strategy: 'default', bucketBytes: 2 ** 20 } as const
const MIB = 2 ** 20

/** Returns the reason why the stock worker cannot run with this interpreter, or undefined. */
export function stockWorkerMissing(python: string): string | undefined {
  try {
    execFileSync(
      python,
      ['-c', 'import torch, zmq, msgspec, safetensors, ckpt_worker, ckpt_reference, checkpoint_engine.worker'],
      {
        stdio: 'pipe',
      },
    )
    return undefined
  } catch (error) {
    const text = String((error as { stderr?: Buffer }).stderr ?? error).trim()
    return `no stock worker: ${text.split('\n').at(-1)}`
  }
}

/** Number of GPUs that this process can use. */
export async function visibleGpus(): Promise<number> {
  return (await probeCuda().catch(() => undefined))?.devices.length ?? 0
}

/** Requirements of checkpoint-engine's own test for a parameter server, and behaviour on failures. */
export const COMPAT_CHECKS: readonly CompatCheck[] = [
  ...[1, 2].map((ranks) => ({
    name: `several updates of random dtypes and shapes arrive bit for bit on ${ranks} rank${ranks > 1 ? 's' : ''}`,
    ranks,
    run: (environment: CompatEnvironment) => severalUpdates(environment, ranks),
  })),
  ...[1, 2].map((ranks) => ({
    name: `a worker's exception reaches every one of ${ranks} rank${ranks > 1 ? 's' : ''} with its traceback, and the next update works`,
    ranks,
    run: (environment: CompatEnvironment) => workerRaises(environment, ranks),
  })),
  {
    name: 'a worker that dies ends the update with a typed error at once, and a new worker works',
    ranks: 1,
    run: workerDies,
  },
  { name: 'a worker is told when another rank gives up before it has the ring', ranks: 2, run: otherRankGivesUp },
]

function standIn({ backend }: CompatEnvironment): readonly string[] {
  return backend === 'cuda' ? [] : ['--stand-in-cuda']
}

function start(
  environment: CompatEnvironment,
  ranks: number,
  extra: (rank: number) => readonly string[] = () => [],
): Promise<Cluster> {
  return Cluster.start({
    ranks,
    timeoutMs: 20_000,
    heartbeatTimeoutMs: 1500,
    ...(environment.backend === 'cuda' ? { backend: 'cuda' } : { standInCuda: true }),
    engine: {
      kind: 'python',
      python: environment.python,
      program: STOCK_WORKER,
      checkpoint: '',
      extra: (rank) => [...standIn(environment), ...extra(rank)],
    },
  })
}

async function verified(cluster: Cluster, checkpoint: RandomCheckpoint): Promise<void> {
  for (const engine of cluster.engines) {
    const { tensors: parameters, bytes } = checkpoint
    assert.deepEqual(await engine.verify(checkpoint.files), { verified: true, parameters, bytes, mismatches: [] })
  }
}

async function severalUpdates(environment: CompatEnvironment, ranks: number): Promise<void> {
  await using cluster = await start(environment, ranks)
  for (let turn = 0; turn < 3; turn++) {
    using checkpoint = await randomCheckpoint(40 + turn, 24 * MIB)
    const name = `step-${turn}`
    await cluster.register(name, checkpoint.directory)
    const [report] = await cluster.update(name, { ...PROTOCOL, keepAlive: turn === 1 })
    assert.equal(report!.tensors, checkpoint.tensors)
    assert.equal(report!.verified, 'none', 'the stock worker compares no digests')
    assert.equal(report!.how, 'staged: the engine’s workers use a different protocol')
    assert.ok(report!.buckets > 10)
    await verified(cluster, checkpoint)
    await cluster.all('unregister', () => ({ name }))
  }
}

async function workerRaises(environment: CompatEnvironment, ranks: number): Promise<void> {
  using checkpoint = await randomCheckpoint(7, 16 * MIB)
  await using cluster = await start(environment, ranks, (rank) => (rank === ranks - 1 ? ['--fail-at-load', '4'] : []))
  await cluster.register('a', checkpoint.directory)
  const started = performance.now()
  const errors = await failures(cluster, {})
  assert.ok(performance.now() - started < 15_000, 'well before anything times out')
  for (const [rank, error] of errors.entries()) {
    const own = rank === ranks - 1 ? error : (error.cause as CkptError)
    if (rank !== ranks - 1) assert.equal(error.code, 'ABORTED')
    assert.equal(own.code, 'ENGINE_WORKER_ERROR')
    assert.equal(own.fields.rank, ranks - 1)
    assert.match(own.fields.traceback!, /Traceback .*check_worker\.py.*ValueError: injected failure in load 4/s)
  }
  await cluster.update('a', PROTOCOL)
  await verified(cluster, checkpoint)
}

async function workerDies(environment: CompatEnvironment): Promise<void> {
  using checkpoint = await randomCheckpoint(9, 16 * MIB)
  await using cluster = await start(environment, 1, () => ['--exit-at-load', '3'])
  await cluster.register('a', checkpoint.directory)
  const started = performance.now()
  const [error] = await failures(cluster, {})
  assert.equal(error!.code, 'ENGINE_WORKER_LOST')
  assert.ok(performance.now() - started < 15_000, 'well before anything times out')
  await cluster.restartEngine(0, standIn(environment))
  await cluster.update('a', PROTOCOL)
  await verified(cluster, checkpoint)
}

/** Rank 1 uses a different protocol with its worker, so it gets no further while rank 0 is in the middle of its update. */
async function otherRankGivesUp(environment: CompatEnvironment): Promise<void> {
  using checkpoint = await randomCheckpoint(11, 4 * MIB)
  await using cluster = await start(environment, 2)
  await cluster.register('a', checkpoint.directory)
  const errors = await failures(cluster, { timeoutMs: 3000 }, { protocol: 'ckpt', verify: false })
  assert.ok(errors.every((error) => CkptError.is(error)))
  await cluster.restartEngine(1, standIn(environment))
  await cluster.update('a', PROTOCOL)
  await verified(cluster, checkpoint)
}

type UpdateArguments = Parameters<Cluster['update']>[1]

/** Makes one update that every rank must fail, and returns each rank's error. */
async function failures(cluster: Cluster, more: UpdateArguments, ofLast: UpdateArguments = {}): Promise<CkptError[]> {
  const last = cluster.ranks.length - 1
  const outcomes = await cluster.settle('update', (rank) => ({
    name: 'a',
    engineSocket: cluster.engines[rank]!.socket,
    ...PROTOCOL,
    ...more,
    ...(rank === last && ofLast),
  }))
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') return outcome.reason as CkptError
    throw new assert.AssertionError({ message: 'an update went well that should have failed' })
  })
}
