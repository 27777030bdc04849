import { execFileSync } from 'node:child_process'
import { closeSync, copyFileSync, linkSync, openSync, readSync, renameSync, writeSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import { readHeader } from '@ckpt/safetensors'
import { type GeneratedCheckpoint, inEngine, type MutationKind, mutationsOf, type Random, type Way } from '@ckpt/testing'
import type { MutationCluster } from './mutation-cluster.ts'

/** Result of one fault. */
export interface MutationTrial {
  readonly way: Way
  readonly kind: MutationKind
  readonly seed: number
  /**
   * `found`: the update failed because of it. `failed`: it failed for a different reason, which proves nothing. `whole`: a file
   * was swapped, and the engines got every byte of the registered one. `missed`: the update was committed, with `verified` as
   * reported.
   */
  readonly outcome: 'found' | 'failed' | 'whole' | 'missed'
  /** Code of the error that was the cause, or the reported `verified`. */
  readonly said: string
  readonly message: string
  /** Reason why the next update, without a fault, was wrong. */
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
    // Each kind equally often, in random order of its targets.
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
  const undo = await changeFiles(kind, checkpoint, random)
  if (undo === undefined) await cluster.arm(inEngine(kind), { kind, seed }, random)
  let result: Pick<MutationTrial, 'outcome' | 'said' | 'message'>
  try {
    const reports = await cluster.update()
    const levels = [...new Set(reports.map(({ verified }) => verified))].join(', ')
    result = { outcome: 'missed', said: `verified: ${levels}`, message: reports[0]!.verification.reason ?? '' }
  } catch (error) {
    const cause = causeOf(error)
    result = { outcome: isAbout(cause) ? 'found' : 'failed', ...cause }
  }
  undo?.()
  if (kind === 'file swapped' && result.outcome === 'missed' && (await differences(cluster, checkpoint)) === undefined) {
    result = { ...result, outcome: 'whole' }
  }
  await cluster.disarm()
  const afterwards = await rightAgain(cluster)
  return { way: cluster.way, kind, seed, ...result, ...(afterwards !== undefined && { afterwards }) }
}

/** Returns the error at the beginning of the chain, which the other ranks' errors are about. */
function causeOf(error: unknown): { said: string; message: string } {
  let first = CkptError.from(error, 'UPDATE_FAILED')
  while (first.code === 'ABORTED' && first.cause instanceof CkptError) first = first.cause
  return { said: first.code, message: first.message }
}

/** Returns true if an error reports that bytes differ from what was registered; an engine worker reports it as text. */
function isAbout({ said, message }: { readonly said: string; readonly message: string }): boolean {
  return ['DIGEST_MISMATCH', 'MEMORY_CHANGED'].includes(said) || (said === 'ENGINE_WORKER_ERROR' && /digest of/.test(message))
}

/** Makes an update without a fault, of a different checkpoint. */
async function rightAgain(cluster: MutationCluster): Promise<string | undefined> {
  const checkpoint = cluster.next()
  try {
    await cluster.register(checkpoint)
    const reports = await cluster.update()
    const wrong = reports.find(({ verified }) => verified !== 'bytes')
    if (wrong) return `rank ${wrong.rank} said verified: ${wrong.verified}, ${wrong.verification.reason ?? ''}`
    return await differences(cluster, checkpoint)
  } catch (error) {
    const { code, message } = CkptError.from(error, 'UPDATE_FAILED')
    return `${code}: ${message}`
  }
}

/** Returns parameters that differ from the files of `checkpoint`; undefined if there are none. */
async function differences(cluster: MutationCluster, checkpoint: GeneratedCheckpoint): Promise<string | undefined> {
  const checks = await cluster.compare(checkpoint)
  return checks.find(({ verified }) => !verified)?.mismatches.join(', ')
}

/** Causes a fault in a file that was registered in place, if `kind` is one; @returns a function that undoes it. */
async function changeFiles(
  kind: MutationKind,
  { files }: GeneratedCheckpoint,
  random: Random,
): Promise<(() => void) | undefined> {
  if (kind !== 'source' && kind !== 'source mapping' && kind !== 'file swapped') return undefined
  const file = random.pick(files)
  const header = await readHeader(file)
  const { begin, end } = random.pick(header.tensors.filter((tensor) => tensor.end > tensor.begin))
  const at = header.dataStart + random.between(begin, end - 1)
  const flip = random.between(1, 255)
  if (kind !== 'file swapped') {
    const change = kind === 'source' ? flipByte : flipMappedByte
    change(file, at, flip)
    return () => change(file, at, flip)
  }
  copyFileSync(file, `${file}.new`)
  flipByte(`${file}.new`, at, flip)
  linkSync(file, `${file}.registered`)
  renameSync(`${file}.new`, file)
  return () => renameSync(`${file}.registered`, file)
}

function flipByte(file: string, at: number, flip: number): void {
  const fd = openSync(file, 'r+')
  try {
    const before = Buffer.alloc(1)
    readSync(fd, before, 0, 1, at)
    writeSync(fd, Buffer.of(before[0]! ^ flip), 0, 1, at)
  } finally {
    closeSync(fd)
  }
}

/** Node.js cannot map files; Python can. */
function flipMappedByte(file: string, at: number, flip: number): void {
  const code = `
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    memory[int(sys.argv[2])] ^= int(sys.argv[3])
`
  execFileSync('python3', ['-c', code, file, String(at), String(flip)])
}
