/** A rank process of a test cluster: makes the calls its parent sends over the IPC channel. */
import { readFileSync, readdirSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import { ParameterServer, controlEngine } from '@ckpt/core'
import { p2p } from '@ckpt/p2p'
import { createCudaDevice, type CudaDevice } from '@ckpt/transport'
import type { RankCall, RankCalls, RankReplyMessage, RankRequestMessage, RankResources } from './rank-protocol.ts'

let server: ParameterServer | undefined
let gpu: CudaDevice | undefined

function parameterServer(): ParameterServer {
  if (server) return server
  throw new CkptError('INVALID_STATE', 'create comes first')
}

type Handlers = { [K in RankCall]: (argument: RankCalls[K][0]) => Promise<RankCalls[K][1]> }

const handlers: Handlers = {
  async create({ address, gpu: index, ...options }) {
    if (index !== undefined) gpu = await createCudaDevice({ index })
    server = await ParameterServer.create({ ...options, rendezvous: address, ...(gpu && { device: gpu }) })
  },
  async register({ name, source, options }) {
    const started = performance.now()
    await parameterServer().registerCheckpoint(name, source, options)
    return { milliseconds: performance.now() - started }
  },
  unregister({ name }) {
    parameterServer().unregisterCheckpoint(name)
    return Promise.resolve()
  },
  async gatherMetas({ name, ...options }) {
    const started = performance.now()
    const manifest = await parameterServer().gatherMetas(name, options)
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
  update({ name, engineSocket, p2p: ranks, ...options }) {
    const strategy = ranks && { strategy: p2p({ ranks }) }
    return parameterServer().update(name, { engine: controlEngine({ socket: engineSocket }), ...strategy, ...options })
  },
  resources: () => Promise.resolve(resources()),
  deviceMemory: () => parameterServer().device.memory(),
  close,
}

async function close(): Promise<void> {
  await server?.close()
  server = undefined
  await gpu?.close()
  gpu = undefined
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
    maps: readFileSync('/proc/self/maps', 'utf8').split('\n').length,
  }
}

process.on('message', (message: RankRequestMessage) => {
  const handler = handlers[message.call] as (argument: unknown) => Promise<unknown>
  handler(message.argument).then(
    (value) => reply({ id: message.id, value }),
    (error: unknown) => reply({ id: message.id, error: CkptError.from(error, 'UPDATE_FAILED').toJSON() }),
  )
})

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
