import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { CkptError, DTYPES, type Manifest } from '@ckpt/contract'
import { type Model, checkpointTensors, sharedManifest } from '@ckpt/models'
import { planBroadcast } from '@ckpt/planner'
import { z } from 'zod'
import { interpreter } from '../python.ts'

const run = promisify(execFile)
const GIB = 2 ** 30
/** Our plans are so fast that a median needs more of them. */
const OWN_REPEATS = 20

/** Times in seconds. */
export interface PlanTimes {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly samples: readonly number[]
  readonly buckets: number
}

/** Comparison of our planner with checkpoint-engine's bucket generation, on the same metadata and with the same bucket size. */
export interface PlanComparison {
  readonly model: string
  readonly ranks: number
  readonly tensors: number
  readonly bucketBytes: number
  /**
   * Times of whole plans (owners, buckets, rounds, ring) from a manifest that was planned before, as in every update except the
   * first.
   */
  readonly ours: PlanTimes & {
    /** Time of the very first plan in this process: nothing compiled, and names compared. */
    readonly first: number
    /** Times of plans from new manifests: names are compared, by their hashes. */
    readonly newManifest: Omit<PlanTimes, 'buckets'>
  }
  readonly peer: PlanTimes & { readonly version: string }
  /** The peer's median over ours. */
  readonly ratio: number
  /** The peer's shortest time over ours: load on the machine affects this least. */
  readonly ratioOfMinima: number
  /** The peer's median over ours from new manifests. */
  readonly ratioNewManifest: number
}

export interface ComparePlanningOptions {
  readonly model: Model
  readonly ranks: number
  readonly repeat: number
  /**
   * Interpreter that has checkpoint-engine; by default `$CKPT_PYTHON`, then `.venv/bin/python` in the repository root, then
   * `python3`.
   */
  readonly python?: string
  /** Size in bytes of the ring for our plan (default 8 GiB). */
  readonly ringBytes?: number
  readonly signal?: AbortSignal
}

const PeerResult = z.union([
  z.object({ skipped: z.string() }),
  z.object({ version: z.string(), seconds: z.array(z.number()).min(1), buckets: z.number() }),
])

/**
 * Measures both planners. On a machine without Python or checkpoint-engine it returns the reason instead.
 *
 * @throws CkptError `NATIVE_FAILURE` if the peer exists but fails; `ABORTED` by the signal.
 */
export async function comparePlanning(options: ComparePlanningOptions): Promise<PlanComparison | { readonly skipped: string }> {
  const { model, ranks, repeat, ringBytes = 8 * GIB } = options
  const tensors = checkpointTensors(model)
  const fresh = () => sharedManifest(model.id, tensors, ranks)
  const manifest = fresh()
  const time = (from: Manifest) => {
    const start = performance.now()
    const plan = planBroadcast(from, { ringBytes })
    return { seconds: (performance.now() - start) / 1000, plan }
  }
  const { seconds: first, plan } = time(manifest)
  const request = { bucketBytes: plan.bucketBytes, repeat, ranks: manifest.ranks.map(({ tensors: table }) => rowsOf(table)) }
  const peer = await runPeer(await interpreter(options.python), request, options.signal)
  if ('skipped' in peer) return peer
  const newManifest = times(Array.from({ length: OWN_REPEATS * repeat }, () => time(fresh()).seconds))
  const ours = times(Array.from({ length: OWN_REPEATS * repeat }, () => time(manifest).seconds))
  const theirs = times(peer.seconds)
  return {
    model: model.id,
    ranks,
    tensors: tensors.length,
    bucketBytes: plan.bucketBytes,
    ours: { ...ours, buckets: plan.buckets.count, first, newManifest },
    peer: { ...theirs, buckets: peer.buckets, version: peer.version },
    ratio: theirs.median / ours.median,
    ratioOfMinima: theirs.min / ours.min,
    ratioNewManifest: theirs.median / newManifest.median,
  }
}

function rowsOf(table: Manifest['ranks'][number]['tensors']): [name: string, dtype: string, shape: readonly number[]][] {
  return Array.from({ length: table.count }, (_, row) => [
    table.names.at(row),
    DTYPES[table.dtypes[row]!]!,
    table.shapes[table.shapeIds[row]!]!,
  ])
}

async function runPeer(python: string, request: unknown, signal: AbortSignal | undefined): Promise<z.infer<typeof PeerResult>> {
  const directory = await mkdtemp(join(tmpdir(), 'ckpt-plan-'))
  try {
    const file = join(directory, 'request.json')
    await writeFile(file, JSON.stringify(request))
    const script = fileURLToPath(new URL('./plan_buckets.py', import.meta.url))
    const { stdout } = await run(python, [script, file], { maxBuffer: 2 ** 26, timeout: 300_000, ...(signal && { signal }) })
    return PeerResult.parse(JSON.parse(stdout))
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT')
      return { skipped: `no Python interpreter ${python}` }
    const code = signal?.aborted === true ? 'ABORTED' : 'NATIVE_FAILURE'
    throw CkptError.from(error, code, `checkpoint-engine's bucket generation under ${python}`)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

function times(samples: readonly number[]): Omit<PlanTimes, 'buckets'> {
  const sorted = [...samples].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
  return { median, min: sorted[0]!, max: sorted[sorted.length - 1]!, samples }
}
