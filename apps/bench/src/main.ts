/** `pnpm bench`: updates of scaled-down published models over real processes, against limits measured in the same run. */
import { statSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { MODELS, model as findModel, type Model } from '@ckpt/models'
import { readIndex } from '@ckpt/safetensors'
import { createHost } from '@ckpt/transport'
import { Command, InvalidArgumentError, Option } from 'commander'
import { generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/harness'
import { machine } from './machine.ts'
import { copyCeiling, measureCeilings } from './measure/ceilings.ts'
import { measureGather } from './measure/gather.ts'
import { measureRegistration } from './measure/registration.ts'
import { measureUpdate } from './measure/update.ts'
import { renderHtml } from './output/html.ts'
import { renderJson } from './output/json.ts'
import { renderTables } from './output/table.ts'
import { writeTraces } from './output/traces.ts'
import { comparePlanning, type PlanComparison } from './peer/plan.ts'
import type { BenchResult, PeerRun, Run, Skipped } from './result.ts'
import { summarize } from './statistics.ts'

const MATRIX = ['glm-4.5-air', 'qwen3-235b-a22b', 'deepseek-v3.1', 'kimi-k2']

interface Options {
  readonly model: string[]
  readonly backend: 'auto' | 'host' | 'cuda'
  readonly strategy: 'broadcast' | 'p2p' | 'direct' | 'all'
  readonly ranks: number
  readonly bytes: number
  readonly repeat: number
  readonly peer?: string
  readonly checkpoint?: string
  readonly json?: string
  readonly report?: string
  readonly trace?: string
}

function size(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?$/i.exec(text)
  if (!match) throw new InvalidArgumentError('expected a size such as 2GiB')
  return Math.round(Number(match[1]) * (match[3] ? 1024 : 1000) ** ' kmgt'.indexOf(match[2]?.toLowerCase() || ' '))
}

function count(text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('expected a whole number above 0')
  return value
}

const program = new Command('bench')
  .description('Measures weight updates of published models, scaled down to what this machine holds. Every byte is verified.')
  .option('--model <name...>', `models, or all: ${MODELS.map(({ id }) => id).join(', ')}`, MATRIX)
  .addOption(
    new Option('--backend <backend>', 'where the engine parameters live').choices(['auto', 'host', 'cuda']).default('auto'),
  )
  .addOption(
    new Option('--strategy <strategy>', 'how bytes travel').choices(['broadcast', 'p2p', 'direct', 'all']).default('broadcast'),
  )
  .addOption(new Option('--ranks <n>', 'ranks, each with an engine worker').argParser(count).default(2))
  .addOption(new Option('--bytes <size>', 'size of each scaled checkpoint').argParser(size).default(2 * 2 ** 30, '2GiB'))
  .addOption(new Option('--repeat <n>', 'timed updates a model').argParser(count).default(5))
  .addOption(new Option('--peer <peer>', 'measure another system in the same run').choices(['checkpoint-engine']))
  .option('--checkpoint <dir>', 'use this checkpoint instead of generated ones')
  .option('--json <file>', 'write the result as JSON')
  .option('--report <file>', 'write the result as a self-contained HTML page')
  .option('--trace <file>', "write each run's last timed update as a trace for ui.perfetto.dev; several runs: a file each")

const options = program.parse().opts<Options>()
const userPath = (path: string) => resolve(process.env['INIT_CWD'] ?? process.cwd(), path)
process.on('SIGINT', () => process.exit(130)).on('SIGTERM', () => process.exit(143))
const say = (text: string) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

const result = await bench()
say('')
process.stdout.write(renderTables(result))
if (options.json !== undefined) writeFileSync(userPath(options.json), renderJson(result))
if (options.report !== undefined) writeFileSync(userPath(options.report), renderHtml(result))
if (options.trace !== undefined) await writeTraces(userPath(options.trace), result.runs)
if (result.runs.some((run) => !run.verified)) process.exitCode = 1

async function bench(): Promise<BenchResult> {
  const startedAt = new Date().toISOString()
  if (options.backend === 'cuda')
    program.error('error: --backend cuda is not available in this version: only the host backend is')
  if (options.strategy !== 'broadcast' && options.strategy !== 'all') {
    program.error(`error: --strategy ${options.strategy} is not available in this version: only broadcast is`)
  }
  const host = createHost()
  const runs: Run[] = []
  const peers: PeerRun[] = []
  const skipped: Skipped[] = []
  let ceilings: BenchResult['ceilings'] | undefined
  let registration: BenchResult['registration']
  for (const { model, checkpoint } of await checkpoints()) {
    say(`${model.title}: generating`)
    using generated = await checkpoint()
    const files = generated.files.map((path) => ({ path, bytes: statSync(path).size }))
    ceilings ??= await measureCeilings(host, files)
    registration ??= await measureRegistration(host, generated.files, options.repeat)
    runs.push(
      await measureUpdate({
        model,
        checkpoint: generated,
        ranks: options.ranks,
        repeat: options.repeat,
        // Measured again right before: on a shared machine the ceiling moves, and the higher one is the stricter limit.
        copyBytesPerSecond: Math.max(ceilings.copyBytesPerSecond, await copyCeiling(host)),
        onStep: (step) => say(`${model.title}: ${step}`),
      }),
    )
  }
  say('gatherMetas of kimi-k2')
  const gatherMetas = await measureGather('kimi-k2', 4, options.repeat)
  if (options.peer !== undefined) {
    say('planning beside checkpoint-engine')
    const compared = await comparePlanning({ model: findModel('kimi-k2'), ranks: 256, repeat: options.repeat })
    if ('skipped' in compared) skipped.push({ what: `planning by ${options.peer}`, reason: compared.skipped })
    else peers.push(...planningRuns(compared))
  }
  return {
    schema: 1,
    startedAt,
    machine: machine(),
    ceilings: ceilings!,
    runs,
    gatherMetas,
    ...(registration && { registration }),
    peers,
    skipped,
  }
}

/** Two comparisons: with the plans of every update, and with the first plan of new metas, when names are compared as well. */
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

interface Scenario {
  readonly model: Pick<Model, 'id' | 'title'>
  readonly checkpoint: () => Promise<GeneratedCheckpoint>
}

async function checkpoints(): Promise<Scenario[]> {
  if (options.checkpoint !== undefined) {
    const directory = userPath(options.checkpoint)
    const { files, headers } = await readIndex(directory)
    const tensors = headers.flatMap((header) => header.tensors)
    const bytes = tensors.reduce((sum, { begin, end }) => sum + end - begin, 0)
    const given = { directory, files, bytes, tensors: tensors.length, scale: 'as it is', [Symbol.dispose]: () => undefined }
    return [{ model: { id: directory, title: directory }, checkpoint: () => Promise.resolve(given) }]
  }
  const ids = options.model.includes('all') ? MODELS.map(({ id }) => id) : options.model
  const host = createHost()
  return ids.map((id, index) => {
    const model = findModel(id)
    return { model, checkpoint: () => generateCheckpoint(host, model, options.bytes, BigInt(index + 1) << 32n) }
  })
}
