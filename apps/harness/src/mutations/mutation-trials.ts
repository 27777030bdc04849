import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import { readHeader } from '@ckpt/safetensors'
import type { GeneratedCheckpoint } from '../checkpoint/generate.ts'
import type { Random } from '../faults/random.ts'
import type { MutationCluster } from './mutation-cluster.ts'
import { inEngine, mutationsOf, type MutationKind, type Way } from './mutation.ts'

/** What became of one fault. */
export interface MutationTrial {
  readonly way: Way
  readonly kind: MutationKind
  readonly seed: number
  /** `found`: the update failed. `missed`: it was committed, with `verified` as its report said. */
  readonly outcome: 'found' | 'missed'
  /** Code of the error, or what the report called verified. */
  readonly said: string
  readonly message: string
  /** Why the next update, without a fault, was not right. */
  readonly afterwards?: string
}

/** Runs random single faults against one cluster, one after the other; after each an update without one must be right. */
export async function runMutations(
  cluster: MutationCluster,
  trials: number,
  random: Random,
  onTrial: (trial: MutationTrial) => void = () => undefined,
): Promise<MutationTrial[]> {
  const kinds = mutationsOf(cluster.way)
  const results: MutationTrial[] = []
  for (let turn = 0; turn < trials; turn++) {
    // Each kind as often as the others, in random order of what it hits.
    const kind = kinds[turn % kinds.length]!
    const seed = random.between(0, 2 ** 31)
    const trial = await runTrial(cluster, kind, seed, random)
    results.push(trial)
    onTrial(trial)
  }
  return results
}

async function runTrial(cluster: MutationCluster, kind: MutationKind, seed: number, random: Random): Promise<MutationTrial> {
  const checkpoint = cluster.next()
  await cluster.register(checkpoint)
  await cluster.poison()
  const undo = kind === 'source' ? await changeSource(checkpoint, random) : undefined
  if (!undo) await cluster.arm(inEngine(kind), { kind, seed }, random)
  let result: Pick<MutationTrial, 'outcome' | 'said' | 'message'>
  try {
    const reports = await cluster.update()
    const levels = [...new Set(reports.map(({ verified }) => verified))].join(', ')
    result = { outcome: 'missed', said: `verified: ${levels}`, message: reports[0]!.verification.reason ?? '' }
  } catch (error) {
    const { code, message } = CkptError.from(error, 'UPDATE_FAILED')
    result = { outcome: 'found', said: code, message }
  }
  undo?.()
  await cluster.disarm()
  const afterwards = await rightAgain(cluster)
  return { way: cluster.way, kind, seed, ...result, ...(afterwards !== undefined && { afterwards }) }
}

/** An update without a fault, of a different checkpoint. */
async function rightAgain(cluster: MutationCluster): Promise<string | undefined> {
  const checkpoint = cluster.next()
  try {
    await cluster.register(checkpoint)
    const reports = await cluster.update()
    const wrong = reports.find(({ verified }) => verified !== 'bytes')
    if (wrong) return `rank ${wrong.rank} said verified: ${wrong.verified}, ${wrong.verification.reason ?? ''}`
    const checks = await cluster.compare(checkpoint)
    return checks.find(({ verified }) => !verified)?.mismatches.join(', ')
  } catch (error) {
    const { code, message } = CkptError.from(error, 'UPDATE_FAILED')
    return `${code}: ${message}`
  }
}

/** Changes a byte of a tensor in a file that was registered in place; @returns what puts it back. */
async function changeSource(checkpoint: GeneratedCheckpoint, random: Random): Promise<() => void> {
  const file = random.pick(checkpoint.files)
  const header = await readHeader(file)
  const { begin, end } = random.pick(header.tensors.filter((tensor) => tensor.end > tensor.begin))
  const at = header.dataStart + random.between(begin, end - 1)
  const put = (byte: number) => {
    const fd = openSync(file, 'r+')
    try {
      const before = Buffer.alloc(1)
      readSync(fd, before, 0, 1, at)
      writeSync(fd, Buffer.of(before[0]! ^ byte), 0, 1, at)
    } finally {
      closeSync(fd)
    }
  }
  const flip = random.between(1, 255)
  put(flip)
  return () => put(flip)
}
