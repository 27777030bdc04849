import type { EngineAdapter } from '@ckpt/contract'
import { controlEngine } from '@ckpt/core'
import { sglang } from '@ckpt/sglang'
import { vllm, type VllmEvent } from '@ckpt/vllm'
import { InvalidArgumentError, Option, type Command } from 'commander'
import { parseCount } from '../sizes.ts'
import { UsageError } from '../usage.ts'
import { userPath } from '../user-path.ts'
import { accessOf, addAccessOptions, type AccessOptions } from './engine-access.ts'
import { KINDS, type EngineChoice } from './engine-kinds.ts'
import { fillIn, ownPlace, placeholdersIn, placeOfRank, type Place } from './place.ts'

const EXPECTED = 'expected vllm=URL, sglang=URL, sglang-plugin=URL, checkpoint-engine=URL or control=PATH'

export interface EngineOptions extends AccessOptions {
  readonly engine?: EngineChoice
  /** Older form of `--engine control=PATH`. */
  readonly engineControl?: string
  readonly parallelSize?: number
}

/** Adds the options that select an engine. */
export function addEngineOptions(command: Command): Command {
  const withEngine = command
    .addOption(
      new Option(
        '--engine <kind=address>',
        "engine to update: vllm=URL (with this project's worker extension), sglang=URL (checkpoint-engine's workers), sglang-plugin=URL (this project's), checkpoint-engine=URL (vLLM with checkpoint-engine's workers), control=PATH (a control socket for each rank). A path in place of a URL is a unix socket; {rank}, {local_rank}, {node} and {instance} are replaced",
      )
        .argParser(parseEngine)
        .env('CKPT_ENGINE'),
    )
    .addOption(
      new Option(
        '--parallel-size <n>',
        'workers of one engine (tensor × pipeline × data parallel); its ranks are consecutive (default: ranks with the same address)',
      ).argParser(parseCount(1)),
    )
    .option('--engine-control <path>', 'same as --engine control=PATH')
  return addAccessOptions(withEngine)
}

/** Parses `KIND=ADDRESS`. @throws InvalidArgumentError */
export function parseEngine(text: string): EngineChoice {
  const [, name, where = ''] = /^([^=]*)=(.*)$/.exec(text) ?? []
  const kind = KINDS.find((one) => one === name)
  if (kind === undefined || where === '') throw new InvalidArgumentError(EXPECTED)
  if (kind === 'control' && isUrl(where)) throw new InvalidArgumentError('expected control= with the path of a unix socket')
  if (kind !== 'control' && !isPath(where) && !isHttpUrl(where)) {
    throw new InvalidArgumentError(
      `expected ${kind}= with a URL that begins with http:// or https://, or the path of a unix socket`,
    )
  }
  return { kind, where }
}

/** Returns the chosen engine. @throws UsageError unless exactly one is chosen, for as many ranks as it can have. */
export function chosenEngine(options: EngineOptions & { readonly nproc?: number }): EngineChoice {
  const { engine, engineControl, parallelSize, nproc } = options
  if (engine !== undefined && engineControl !== undefined) {
    throw new UsageError('--engine and --engine-control are both given; expected one of them')
  }
  const choice = engine ?? (engineControl === undefined ? undefined : ({ kind: 'control', where: engineControl } as const))
  if (choice === undefined) throw new UsageError(`--engine is missing; ${EXPECTED}`)
  accessOf(options, choice)
  const shown = `${choice.kind}=${choice.where}`
  const place = ownPlace(nproc)
  const placeholders = placeholdersIn(choice.where, '--engine')
  if (choice.kind === 'control') {
    if (parallelSize !== undefined)
      throw new UsageError('--parallel-size: control sockets belong to one rank each; leave it out')
    if (place.worldSize > 1 && !placeholders.some((one) => one === 'rank' || one === 'local_rank')) {
      throw new UsageError(
        `--engine ${shown}: ${place.worldSize} ranks need a socket each; expected {rank} or {local_rank} in it`,
      )
    }
    return choice
  }
  if (parallelSize === undefined && placeholders.includes('instance')) {
    throw new UsageError(`--engine ${shown}: {instance} depends on --parallel-size; expected both`)
  }
  const size = parallelSize ?? sameAddress(choice, place)
  if (place.worldSize % size !== 0) {
    throw new UsageError(`--parallel-size ${size}: expected a divisor of the number of ranks, ${place.worldSize}`)
  }
  return choice
}

/** Creates the adapter of a chosen engine. `tell` is called with what a user should know. */
export function engineOf(options: EngineOptions, worldSize: number, tell: (text: string) => void): EngineAdapter {
  const choice = chosenEngine(options)
  const place = { ...ownPlace(), worldSize }
  const parallelSize = options.parallelSize ?? sameAddress(choice, place)
  const socket = choice.kind === 'control' || isPath(choice.where)
  const access = accessOf(options, choice)
  const address = (rank: number) => {
    const filled = fillIn(choice.where, placeOfRank(rank, place), parallelSize)
    return socket ? userPath(filled) : filled
  }
  if (choice.kind === 'control') return controlEngine({ socket: address })
  if (choice.kind === 'vllm' || choice.kind === 'checkpoint-engine') {
    return vllm({
      ...(socket ? { socketPath: address } : { url: address }),
      parallelSize,
      ...access,
      ...(choice.kind === 'checkpoint-engine' && { via: 'checkpoint-engine' }),
      onEvent: (event) => tellEvent(event, tell),
    })
  }
  return sglang({
    ...(socket ? { url: 'http://localhost', socketPath: address } : { url: address }),
    parallelSize,
    ...access,
    protocol: choice.kind === 'sglang' ? 'checkpoint-engine' : 'ckpt',
  })
}

function tellEvent(event: VllmEvent, tell: (text: string) => void): void {
  if (event.kind === 'unsupported') tell(`this vLLM has no ${event.feature}: ${event.reason}`)
  if (event.kind === 'left-paused') tell(`requests stay paused until an update succeeds: ${event.reason}`)
}

/** Number of ranks, from the first one, that have the address of the first one. */
function sameAddress({ where }: EngineChoice, place: Place): number {
  const first = fillIn(where, placeOfRank(0, place))
  let count = 1
  while (count < place.worldSize && fillIn(where, placeOfRank(count, place)) === first) count++
  return count
}

const isPath = (where: string): boolean => /^[/.]/.test(where)
const isUrl = (where: string): boolean => /^[a-z][a-z0-9+.-]*:\/\//i.test(where)

function isHttpUrl(where: string): boolean {
  try {
    return /^https?:$/.test(new URL(where.replaceAll(/\{\w+\}/g, '0')).protocol)
  } catch {
    return false
  }
}
