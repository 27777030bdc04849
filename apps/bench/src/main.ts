/** `pnpm bench`: updates of scaled-down published models over real processes, against limits measured in the same run. */
import { freemem } from 'node:os'
import { resolve } from 'node:path'
import { MODELS, model as findModel } from '@ckpt/models'
import { readIndex } from '@ckpt/safetensors'
import { CkptError, type Host } from '@ckpt/contract'
import { createHost, probeCuda } from '@ckpt/transport'
import { generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/testing'
import { machine } from './machine.ts'
import { copyCeiling } from './measure/ceilings.ts'
import { measureGather } from './measure/gather.ts'
import { measureGpu } from './measure/gpu/measure.ts'
import { measureH2d } from './measure/h2d.ts'
import { HostRuns, type Scenario } from './measure/host.ts'
import { measureRegistration } from './measure/registration.ts'
import { program, type Options } from './options.ts'
import { outputFiles, writeFiles } from './output/files.ts'
import { renderTables } from './output/table.ts'
import { writeTraces } from './output/traces.ts'
import { comparePlanning, type PlanComparison } from './peer/plan.ts'
import { interpreter } from './python.ts'
import { ROW_PARALLEL, generateRowParallel } from './row-parallel.ts'
import {
  isRight,
  referenceRuns,
  type BenchResult,
  type EngineStrategy,
  type GatherRun,
  type PeerRun,
  type ReferenceRun,
  type RegistrationRun,
} from './result.ts'
import { summarize } from './statistics.ts'
import { benchVllm } from './vllm/bench.ts'

/** Size of the registration measurement, if the memory allows it. */
const REGISTRATION_BYTES = 4 * 2 ** 30

const options = program.parse().opts<Options>()
const userDirectory = process.env['INIT_CWD'] ?? process.cwd()
const userPath = (path: string) => resolve(userDirectory, path)
const files = outputFiles(userDirectory, options)
process.on('SIGINT', () => process.exit(130)).on('SIGTERM', () => process.exit(143))
const say = (text: string) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
  else if (process.env['CKPT_BENCH_STEPS']) process.stderr.write(`${(performance.now() / 1000).toFixed(1)} s ${text}\n`)
}

const result = options.engine === 'vllm' ? await engineBench() : await bench()
say('')
process.stdout.write(renderTables(result))
process.stdout.write(`\n${writeFiles(files, result)}`)
if (options.trace !== undefined) await writeTraces(userPath(options.trace), referenceRuns(result))
if (!result.runs.every(isRight)) process.exitCode = 1

async function bench(): Promise<BenchResult> {
  const startedAt = new Date().toISOString()
  // Only the validation runs, unless one strategy is requested.
  const isDefault = program.getOptionValueSource('strategy') === 'default'
  const wanted = options.validate && isDefault ? 'all' : options.strategy
  if (wanted === 'auto') return program.error('error: --strategy auto needs --engine vllm')
  const strategies = wanted === 'all' ? (['broadcast', 'direct', 'p2p'] as const) : [wanted]
  const onGpus = await usesGpus()
  if (onGpus && wanted === 'p2p') {
    program.error('error: --strategy p2p is measured only on the host device (--backend host)')
  }
  const host = createHost()
  const { metricsPort, ranks, repeat } = options
  const scenarios = await checkpoints()
  const onHost = new HostRuns({
    ...{ host, scenarios, strategies, ranks, repeat, say },
    ...(metricsPort !== undefined && { metricsPort }),
  })
  const { runs, skipped } = onHost
  const peers: PeerRun[] = []
  let gpus: BenchResult['gpus']
  if (onGpus) gpus = await measureOnGpus(host, scenarios, strategies, runs, peers)
  else if (options.validate) await onHost.measureBesideCalibration()
  else await onHost.measure()
  const ceilings = onHost.ceilings ?? { copyBytesPerSecond: await copyCeiling(host) }
  // --validate compares only updates.
  const registration = onGpus || options.validate ? undefined : await register(host)
  const gatherMetas = onGpus || options.validate ? undefined : await gather()
  if (options.peer !== undefined && !onGpus) {
    say('planning compared with checkpoint-engine')
    const compared = await comparePlanning({ model: findModel('kimi-k2'), ranks: 256, repeat: options.repeat })
    if ('skipped' in compared) skipped.push({ what: `planning by ${options.peer}`, reason: compared.skipped })
    else peers.push(...planningRuns(compared))
  }
  return {
    schema: 2,
    startedAt,
    machine: machine(),
    ceilings,
    ...(gpus && { gpus }),
    runs,
    ...(gatherMetas && { gatherMetas }),
    ...(registration && { registration }),
    peers,
    skipped,
  }
}

/** Measures real vLLM; options that the user did not give have defaults of their own. */
async function engineBench(): Promise<BenchResult> {
  const isGiven = (name: keyof Options) => program.getOptionValueSource(name) !== 'default'
  const { strategy, ranks, repeat, peer, python, engineArgs, startTimeout, workDir } = options
  if (isGiven('strategy') && (strategy === 'p2p' || strategy === 'direct')) {
    program.error(`error: --engine vllm measures --strategy auto, broadcast or all, not ${strategy}`)
  }
  const wanted: EngineStrategy[] =
    !isGiven('strategy') || strategy === 'auto' ? ['auto'] : strategy === 'all' ? ['auto', 'broadcast'] : ['broadcast']
  const measured = benchVllm({
    ...{ ranks, repeat, startTimeoutSeconds: startTimeout, json: files.json },
    backend: (await usesGpus()) ? 'cuda' : 'host',
    strategies: wanted,
    peer: peer !== undefined,
    ...(isGiven('bytes') && { bytes: options.bytes }),
    ...(isGiven('model') && { models: options.model }),
    ...(python !== undefined && { python }),
    ...(engineArgs !== undefined && { engineArgs }),
    ...(workDir !== undefined && { workDirectory: userPath(workDir) }),
  })
  return measured.catch((error: unknown) =>
    program.error(`error: ${CkptError.is(error) ? `${error.code}: ${error.message}` : String(error)}`),
  )
}

/** Measures each checkpoint with each strategy that is measured on GPUs. */
async function measureOnGpus(
  host: Host,
  scenarios: readonly Scenario[],
  strategies: readonly ReferenceRun['strategy'][],
  runs: ReferenceRun[],
  peers: PeerRun[],
): Promise<NonNullable<BenchResult['gpus']>> {
  const { bucketBytes, chunkBytes, ranks, repeat } = options
  const python = await interpreter()
  const gpus = await measureH2d(python, ranks)
  for (const { model, checkpoint } of scenarios) {
    say(`${model.title}: generating`)
    using generated = await checkpoint()
    for (const strategy of strategies) {
      // A separate test measures it there: `CKPT_P2P_BYTES=… vitest run apps/harness/src/gpu-p2p.test.ts`.
      if (strategy === 'p2p') continue
      const measured = await measureGpu({
        ...{ model, checkpoint: generated, ranks, repeat, gpus, python, host, strategy },
        peer: options.peer !== undefined,
        ...(bucketBytes !== undefined && { bucketBytes }),
        ...(chunkBytes !== undefined && { chunkBytes }),
        onStep: (step) => say(`${model.title}, ${strategy}: ${step}`),
      })
      runs.push(...measured.runs)
      peers.push(...measured.peers)
    }
  }
  return gpus
}

/**
 * Registers 4 GiB, or an amount that fits three times into the free memory: the files, the memory they are read into, and the
 * ceiling's memory.
 */
async function register(host: Host): Promise<RegistrationRun> {
  say('registration: generating')
  using generated = await (options.checkpoint === undefined ? large(host) : existing(userPath(options.checkpoint)))
  say('registration: measuring')
  return await measureRegistration(host, generated.files, options.repeat)
}

function large(host: Host): Promise<GeneratedCheckpoint> {
  const bytes = Math.min(REGISTRATION_BYTES, Math.floor(freemem() / 3.5))
  return generateCheckpoint(host, findModel('kimi-k2'), bytes, 9n << 32n, 'registration')
}

function gather(): Promise<GatherRun> {
  say('gatherMetas of kimi-k2')
  return measureGather('kimi-k2', 4, options.repeat)
}

/** Returns true if the engines' parameters are on GPUs; `auto` chooses them if there is a GPU for every rank. */
async function usesGpus(): Promise<boolean> {
  if (options.backend === 'host') return false
  const found = await probeCuda().catch((error: unknown) => {
    if (options.backend === 'auto') return undefined
    throw error
  })
  const enough = found !== undefined && found.driver.available && found.devices.length >= options.ranks
  if (options.backend === 'cuda' && !enough) {
    const problem = found?.driver.problem ?? `there are ${found?.devices.length ?? 0}`
    program.error(`error: --backend cuda needs ${options.ranks} GPUs: ${problem}`)
  }
  return enough
}

/**
 * Returns two comparisons: with the plans of every update, and with the first plan of new metas, when names are also compared.
 */
function planningRuns(compared: PlanComparison): PeerRun[] {
  const milliseconds = (times: { samples: readonly number[] }) => summarize(times.samples.map((seconds) => seconds * 1000))
  const run = (what: string, ours: { samples: readonly number[] }, ratio: number): PeerRun => ({
    peer: 'checkpoint-engine',
    version: compared.peer.version,
    what: `bucket generation (${compared.tensors} tensors, ${what})`,
    model: compared.model,
    ranks: compared.ranks,
    oursMs: milliseconds(ours),
    peerMs: milliseconds(compared.peer),
    ratio,
  })
  return [
    run('metas known', compared.ours, compared.ratio),
    run('metas new', compared.ours.newManifest, compared.ratioNewManifest),
  ]
}

async function checkpoints(): Promise<Scenario[]> {
  if (options.checkpoint !== undefined) {
    const directory = userPath(options.checkpoint)
    return [{ model: { id: directory, title: directory }, checkpoint: () => existing(directory) }]
  }
  const ids = options.model.includes('all') ? MODELS.map(({ id }) => id) : options.model
  const host = createHost()
  return ids.map((id, index) => {
    if (id === ROW_PARALLEL.id) return { model: ROW_PARALLEL, checkpoint: () => generateRowParallel(host, options.bytes) }
    const model = findModel(id)
    return { model, checkpoint: () => generateCheckpoint(host, model, options.bytes, BigInt(index + 1) << 32n) }
  })
}

/** Returns an existing checkpoint; disposing of it leaves it in place. */
async function existing(directory: string): Promise<GeneratedCheckpoint> {
  const { files, headers } = await readIndex(directory)
  const tensors = headers.flatMap((header) => header.tensors)
  const bytes = tensors.reduce((sum, { begin, end }) => sum + end - begin, 0)
  return { directory, files, bytes, tensors: tensors.length, scale: 'as it is', [Symbol.dispose]: () => undefined }
}
