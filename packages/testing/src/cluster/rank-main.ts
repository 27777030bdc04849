/** A rank process of a test cluster: makes the calls its parent sends over the IPC channel. */
import { readFileSync, readdirSync } from 'node:fs'
import { broadcast } from '@ckpt/broadcast'
import { CkptError, type Device, type EngineAdapter, type WorkerProtocol } from '@ckpt/contract'
import { type ParameterServer, controlEngine, direct } from '@ckpt/core'
import { createParameterServer } from '@ckpt/server'
import { p2p } from '@ckpt/p2p'
import { createCudaDevice } from '@ckpt/transport'
import { vllm } from '@ckpt/vllm'
import { standInCudaDevice } from './stand-in-device.ts'
import { ArmedMutation } from '../mutations/armed.ts'
import { mutableHostDevice } from '../mutations/mutable-device.ts'
import { Hold, heldEngine, heldStrategy } from './hold-points.ts'
import type {
  PointMessage,
  RankCall,
  RankCalls,
  RankReplyMessage,
  RankRequestMessage,
  RankResources,
  RankUpdate,
} from './rank-protocol.ts'

let server: ParameterServer | undefined
/** Set if the rank was given one; otherwise it creates its own. */
let device: Device | undefined
let hold: Hold | undefined
const mutation = new ArmedMutation()
/** Adapters of vLLM servers, by URL. */
const vllmEngines = new Map<string, EngineAdapter>()

function parameterServer(): ParameterServer {
  if (server) return server
  throw new CkptError('INVALID_STATE', 'create comes first')
}

type Handlers = { [K in RankCall]: (argument: RankCalls[K][0]) => Promise<RankCalls[K][1]> }

const handlers: Handlers = {
  async create({ address, gpu: index, standInCuda = false, mutable = false, ...options }) {
    if (mutable) device = await mutableHostDevice(options.rank, mutation)
    if (index !== undefined) device = await createCudaDevice({ index })
    if (standInCuda) device = await standInCudaDevice(options.rank)
    server = await createParameterServer({ ...options, rendezvous: address, ...(device && { device }) })
  },
  async register({ name, source, options, watch = false }) {
    const started = performance.now()
    let told = !watch
    const onProgress = () => {
      if (!told) tell('register')
      told = true
    }
    await parameterServer().registerCheckpoint(name, source, { ...options, onProgress })
    return { milliseconds: performance.now() - started }
  },
  unregister: ({ name }) => parameterServer().unregisterCheckpoint(name),
  async gatherMetas({ name, vllm: engineServer, ...options }) {
    const started = performance.now()
    const engine = engineServer && { engine: engineOf(undefined, engineServer, 'ckpt') }
    const manifest = await parameterServer().gatherMetas(name, { ...options, ...engine })
    const milliseconds = performance.now() - started
    return { milliseconds, tensors: manifest.ranks.reduce((sum, rank) => sum + rank.tensors.count, 0), digest: manifest.digest }
  },
  saveMetas: ({ name, path }) => parameterServer().saveMetas(name, path),
  publishMetas({ name }) {
    parameterServer().publishMetas(name)
    return Promise.resolve()
  },
  async fetchMetas({ name, ...from }) {
    await parameterServer().fetchMetas(name, from)
  },
  servedBytes: () => Promise.resolve(parameterServer().servedBytes),
  async loadMetas({ path }) {
    await parameterServer().loadMetas(path)
  },
  update({
    name,
    engineSocket,
    vllm: engineServer,
    protocol = 'ckpt',
    hold: at,
    strategy,
    p2p: ranks,
    keep = false,
    checkEvery,
    ...options
  }) {
    const whole = strategy?.startsWith('direct')
      ? direct({ required: strategy === 'direct-required', ...(checkEvery !== undefined && { checkEvery }) })
      : broadcast()
    const chosen = ranks ? p2p({ ranks, keep }) : whole
    const engine = engineOf(engineSocket, engineServer, protocol)
    if (at === undefined) {
      return parameterServer().update(name, { engine, ...options, ...(strategy !== 'default' && { strategy: chosen }) })
    }
    hold = new Hold(at.at, at.bucket ?? 0, () => tell(at.at))
    const held = { engine: heldEngine(engine, hold), strategy: heldStrategy(chosen, hold) }
    return parameterServer().update(name, { ...held, ...options })
  },
  go() {
    hold?.go()
    return Promise.resolve()
  },
  engineStates: () => Promise.resolve(parameterServer().engineStates()),
  recordLimit({ totalMs, limitMs }) {
    parameterServer().recordLimit({ totalMs }, limitMs)
    return Promise.resolve()
  },
  mutate({ mutation: armed }) {
    mutation.arm(armed)
    return Promise.resolve()
  },
  resources: () => Promise.resolve(resources()),
  deviceMemory: () => parameterServer().device.memory(),
  close,
}

function engineOf(socket: string | undefined, engineServer: RankUpdate['vllm'], protocol: WorkerProtocol): EngineAdapter {
  if (socket !== undefined) return controlEngine({ socket, protocol })
  if (engineServer === undefined) throw new CkptError('INVALID_ARGUMENT', 'update needs engineSocket or vllm')
  const known = vllmEngines.get(engineServer.url) ?? vllm(engineServer)
  vllmEngines.set(engineServer.url, known)
  return known
}

async function close(): Promise<void> {
  await server?.close()
  server = undefined
  await device?.close()
  device = undefined
}

/** Returns true if a mapping is not one of the pages, of 256 KiB each, that V8 allocates and keeps for its heap. */
function isOurs(line: string): boolean {
  const [, from, to, rest] = /^(\w+)-(\w+) rw-p 00000000 00:00 0\s*(.*)$/.exec(line) ?? []
  return from === undefined || rest !== '' || parseInt(to!, 16) - parseInt(from, 16) !== 2 ** 18
}

function resources(): RankResources {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  const status = readFileSync('/proc/self/status', 'utf8')
  const kilobytes = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) * 1024
  return {
    pid: process.pid,
    residentBytes: kilobytes('VmRSS'),
    heapBytes: heapUsed + external,
    peakResidentBytes: kilobytes('VmHWM'),
    openFiles: readdirSync('/proc/self/fd').length,
    maps: readFileSync('/proc/self/maps', 'utf8').split('\n').filter(isOurs).length,
  }
}

process.on('message', (message: RankRequestMessage) => {
  const handler = handlers[message.call] as (argument: unknown) => Promise<unknown>
  const called = async () => handler(message.argument)
  called().then(
    (value) => reply({ id: message.id, value }),
    (error: unknown) => {
      const typed = CkptError.is(error)
      reply({ id: message.id, error: CkptError.from(error, 'UPDATE_FAILED').toJSON(), typed })
    },
  )
})

function tell(point: string): void {
  if (process.connected) process.send!({ point } satisfies PointMessage)
}

function reply(message: RankReplyMessage): void {
  if (process.connected) process.send!(message)
}

async function stop(code: number): Promise<void> {
  await close().catch(() => undefined)
  process.exit(code)
}

process.on('SIGINT', () => void stop(130))
process.on('SIGTERM', () => void stop(143))
process.on('disconnect', () => void stop(0))
process.send!({ id: -1, value: undefined } satisfies RankReplyMessage)
