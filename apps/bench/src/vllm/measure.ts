import type { Host } from '@ckpt/contract'
import { CkptError } from '@ckpt/contract'
import { Cluster, type Completion } from '@ckpt/testing'
import { copyProbe } from '../measure/ceilings.ts'
import { measureH2d } from '../measure/h2d.ts'
import type { EngineRun, EngineStrategy, Gpus, PeerRun, Skipped } from '../result.ts'
import { summarize } from '../statistics.ts'
import { answersOf, idle, sameAnswers } from './answers.ts'
import { makeCheckpoints, type EngineCheckpoints } from './checkpoints.ts'
import { Own } from './own.ts'
import { Peer, type PeerStep } from './peer.ts'
import { engineRun, peerRuns, type EngineSubject, type OwnSample, type PeerSample } from './run.ts'
import { serverFacts, startServers } from './servers.ts'
import { describeShape, quantizationOf, shapeOf, type EngineModel } from './shapes.ts'
import { planTurns, type PeerTurn, type Turn } from './turns.ts'

export interface EngineMeasurement {
  readonly host: Host
  /** Interpreter that has vLLM. */
  readonly python: string
  readonly backend: 'host' | 'cuda'
  readonly model: EngineModel
  readonly bytes: number
  readonly ranks: number
  readonly strategies: readonly EngineStrategy[]
  readonly repeat: number
  readonly peer: boolean
  /** Further arguments of vLLM. */
  readonly engineArguments: readonly string[]
  /** Deadline for the servers to be healthy, in milliseconds. */
  readonly startTimeoutMs: number
  readonly workDirectory?: string
  /** Directory for the servers' output. */
  readonly logs?: string
  readonly say: (step: string) => void
}

export interface EngineResult {
  readonly runs: readonly EngineRun[]
  readonly peers: readonly PeerRun[]
  /** Reason why the peer's updates ended early. */
  readonly skipped: readonly Skipped[]
  readonly gpus?: Gpus
  readonly copyBytesPerSecond: number
}

/** Right answers by checkpoint. */
type Right = Readonly<Record<'A' | 'B', readonly Completion[]>>

/**
 * Measures updates of real vLLM as a training loop makes them: two servers load checkpoints A and B from disk; then the first
 * takes both in turns, each with a registration of its own and verified. After every update its greedy answers are compared with
 * those for the same checkpoint from disk. With a peer, both systems update that server in turns. The last updates happen while
 * a client streams tokens: they show the pause and are not samples of the update's time.
 */
export async function measureVllm(options: EngineMeasurement): Promise<EngineResult> {
  const { python, backend, ranks, say, host, model, bytes } = options
  const shape = shapeOf(model, bytes)
  const { title, scale } = describeShape(shape)
  using copy = await copyProbe(host)
  const rates = [await copy.read()]
  const gpus = backend === 'cuda' ? await measureH2d(python, ranks) : undefined
  if (gpus) say(`host links: ${(gpus.h2dBytesPerSecond / 1e9).toFixed(1)} GB/s`)
  say(`making two checkpoints of ${title}, ${scale}`)
  const within = options.workDirectory
  using checkpoints = await makeCheckpoints({ python, shape, gpus: gpus ? ranks : 0, ...(within !== undefined && { within }) })
  say(
    `made: ${(checkpoints.A.bytes / 1e9).toFixed(2)} GB and ${checkpoints.A.tensors} tensors each, in ${checkpoints.A.directory}`,
  )
  const directories = { A: checkpoints.A.directory, B: checkpoints.B.directory }
  say('starting two vLLM servers')
  await using servers = await startServers({ ...options, directories, timeoutMs: options.startTimeoutMs })
  const right: Right = { A: await answersOf(servers.A), B: await answersOf(servers.B) }
  if (sameAnswers(right.A, right.B)) throw new CkptError('INVALID_STATE', 'the servers of both checkpoints answer the same')
  // It has told all that it is needed for.
  await servers.B.stop()
  const facts = await serverFacts(servers.A)
  say(`vLLM ${facts.version}: answers known; starting ranks`)
  await using cluster = await Cluster.start({ ranks, backend, keepAlive: true, shareMemory: true, timeoutMs: 150_000 })
  await using peer = options.peer ? await Peer.start(servers.A.url, { python, ranks, checkpoints }) : undefined
  const own = new Own({ cluster, server: servers.A, model: directories.A, ranks, checkpoints, maxTokens: facts.maxTokens })
  const loop = new Loop(
    own,
    peer,
    right,
    () => answersOf(servers.A),
    () => idle(servers.A),
    say,
  )
  const runs: EngineRun[] = []
  const peers: PeerRun[] = []
  for (const requested of options.strategies) {
    const isFirst = runs.length === 0
    const turns = planTurns({ repeat: options.repeat, peer: peer !== undefined && isFirst, serving: loop.serving })
    const beforeTimed = async () => {
      if (gpus === undefined) rates.push(await copy.read())
    }
    const { ours, theirs } = await loop.run(requested, turns, beforeTimed)
    const resources = await cluster.all('resources', () => undefined)
    const subject: EngineSubject = {
      ...{
        model,
        title,
        scale,
        backend,
        ranks,
        engine: 'vllm',
        engineVersion: facts.version,
        quantization: quantizationOf(shape, options.engineArguments),
      },
      limit: limitOf(checkpoints, ranks, gpus?.h2dBytesPerSecond, rates),
    }
    const peakHostBytes = Math.max(...resources.map((one) => one.peakResidentBytes))
    runs.push(engineRun(subject, requested, ours, { peakHostBytes, isFirst }))
    if (peer === undefined || !isFirst) continue
    for (const setting of ['auto', 'kept'] as const) peers.push(...peerRuns(subject, peer.version, setting, ours, theirs))
  }
  const { peerError } = loop
  const skipped = peerError === undefined ? [] : [{ what: 'further updates by checkpoint-engine', reason: peerError }]
  return { runs, peers, skipped, ...(gpus && { gpus }), copyBytesPerSecond: Math.max(...rates) }
}

/** Makes turns one after the other and compares the server's answers after each. */
class Loop {
  serving: 'A' | 'B' = 'A'
  /** Why the peer's update failed; it gets no further turns. */
  peerError: string | undefined
  readonly #own: Own
  readonly #peer: Peer | undefined
  readonly #right: Right
  readonly #answers: () => Promise<readonly Completion[]>
  readonly #idle: () => Promise<void>
  readonly #say: (step: string) => void

  constructor(
    own: Own,
    peer: Peer | undefined,
    right: Right,
    answers: () => Promise<readonly Completion[]>,
    untilIdle: () => Promise<void>,
    say: (step: string) => void,
  ) {
    this.#own = own
    this.#peer = peer
    this.#right = right
    this.#answers = answers
    this.#idle = untilIdle
    this.#say = say
  }

  async run(
    strategy: EngineStrategy,
    turns: readonly Turn[],
    beforeTimed: () => Promise<void>,
  ): Promise<{ ours: OwnSample[]; theirs: PeerSample[] }> {
    const ours: OwnSample[] = []
    const theirs: PeerSample[] = []
    for (const [index, turn] of turns.entries()) {
      const before = `${index + 1} of ${turns.length}, ${turn.checkpoint}, ${turn.kind}`
      if (turn.system === 'ours') {
        if (turn.kind === 'timed') await beforeTimed()
        const step = await this.#own.step(turn.checkpoint, strategy, turn.kind === 'streamed')
        if (turn.kind === 'streamed') await this.#idle()
        const answersEqual = await this.#compare(turn)
        ours.push({ turn, step, answersEqual })
        const [report] = step.reports
        const gap = step.longestTokenGapMs === undefined ? '' : `, longest token gap ${step.longestTokenGapMs.toFixed(0)} ms`
        this.#tell(`${before}: ${strategy} as ${report!.strategy}`, step, `verified ${report!.verified}${gap}`, answersEqual)
      } else {
        const step = await this.#peerStep(turn)
        if (step === undefined) continue
        const answersEqual = await this.#compare(turn)
        theirs.push({ turn, step, answersEqual })
        this.#tell(`${before}: checkpoint-engine (${turn.beside})`, step, '', answersEqual)
      }
    }
    return { ours, theirs }
  }

  /** Not every engine takes an update from the peer: one that fails ends its turns, and the next update of ours brings everything. */
  async #peerStep({ checkpoint, beside }: PeerTurn): Promise<PeerStep | undefined> {
    if (this.peerError !== undefined) return undefined
    try {
      return await this.#peer!.step(checkpoint, beside)
    } catch (error) {
      this.peerError = error instanceof Error ? error.message : String(error)
      this.#say(`checkpoint-engine (${beside}) failed: ${this.peerError}`)
      return undefined
    }
  }

  async #compare({ checkpoint }: Turn): Promise<boolean> {
    this.serving = checkpoint
    return sameAnswers(await this.#answers(), this.#right[checkpoint])
  }

  #tell(
    what: string,
    { registerMs, gatherMetasMs, updateMs }: { registerMs: number; gatherMetasMs: number; updateMs: number },
    more: string,
    answersEqual: boolean,
  ): void {
    const times = `register ${registerMs.toFixed(0)} ms, gather ${gatherMetasMs.toFixed(0)} ms, update ${updateMs.toFixed(0)} ms`
    const verdict = answersEqual ? 'answers equal' : 'ANSWERS DIFFER'
    this.#say([`${what}: ${times}`, more, verdict].filter((part) => part !== '').join(', '))
  }
}

/** The whole checkpoint over the host links, or through processors' copies on the host device, whatever the strategy. */
function limitOf(
  { A }: EngineCheckpoints,
  ranks: number,
  links: number | undefined,
  copies: readonly number[],
): EngineRun['limit'] {
  const bytesPerSecond = links ?? summarize(copies).median
  const how =
    links === undefined
      ? `${A.bytes} bytes at the copy rate of all cores, the median of readings before each timed update`
      : `${A.bytes} bytes over the host links of ${ranks} GPUs, all at once, as measured in this run`
  return { bytesPerSecond, updateMs: (A.bytes / bytesPerSecond) * 1000, how }
}
