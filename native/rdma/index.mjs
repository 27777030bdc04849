import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const directory = dirname(fileURLToPath(import.meta.url))
const binary = join(directory, 'build', 'Release', 'ckpt_rdma.node')
const build = `pnpm --filter @ckpt/rdma-core-bindings build:native (in the repository), or npx cmake-js build in ${directory}`

const DEFAULT_COMPLETIONS = 4096
const DEFAULT_DEPTH = 64
const DEFAULT_PIECE_BYTES = 2 ** 20
const DEFAULT_TIMEOUT_MS = 30_000

function unavailable(problem, cause) {
  const message = `@ckpt/rdma-core-bindings cannot be loaded: ${problem}\n- build it (g++, cmake, make and libibverbs-dev): ${build}`
  return Object.assign(new Error(message, cause && { cause }), { code: 'ADDON_UNAVAILABLE', file: binary })
}

let loaded

function addon() {
  if (loaded !== undefined) return loaded
  if (!existsSync(binary)) throw unavailable('it is not built')
  try {
    loaded = createRequire(import.meta.url)(binary)
  } catch (cause) {
    throw unavailable(cause.message, cause)
  }
  return loaded
}

/** Memories of running batches: nothing else may hold them, and written memory must not be collected. */
const underWay = new Set()

/** Buffers of open regions, by region: otherwise nothing might hold what devices read and write. */
const buffers = new WeakMap()

export class RdmaMemoryRegion {
  #handle
  #closed

  constructor({ handle, address, bytes, remoteKey }, memory) {
    this.#handle = handle
    buffers.set(this, memory)
    this.address = address
    this.bytes = bytes
    this.remoteKey = remoteKey
  }

  get handle() {
    return this.#handle
  }

  close() {
    this.#closed ??= addon()
      .closeRegion(this.#handle)
      .finally(() => buffers.delete(this))
    return this.#closed
  }
}

export class RdmaQueuePair {
  #handle
  #closed

  constructor({ handle, local }) {
    this.#handle = handle
    this.local = local
  }

  get handle() {
    return this.#handle
  }

  connect(remote, { timeout = 14, retries = 6, trafficClass = 0, serviceLevel = 0 } = {}) {
    return addon().connectPair(this.#handle, remote, { timeout, retries, trafficClass, serviceLevel })
  }

  close() {
    this.#closed ??= addon().closePair(this.#handle)
    return this.#closed
  }
}

export class RdmaDevice {
  #handle
  #closed

  constructor(name, handle) {
    this.name = name
    this.#handle = handle
  }

  async registerMemory(memory, access = {}) {
    const views = Array.isArray(memory) ? memory : [memory]
    return new RdmaMemoryRegion(await addon().registerViews(this.#handle, views, withDefaults(access)), views)
  }

  async registerPointer(address, bytes, access = {}) {
    return new RdmaMemoryRegion(await addon().registerPointer(this.#handle, address, bytes, withDefaults(access)))
  }

  async registerDmabuf({ fd, offset = 0, bytes, address = 0n }, access = {}) {
    return new RdmaMemoryRegion(await addon().registerDmabuf(this.#handle, fd, offset, bytes, address, withDefaults(access)))
  }

  async createQueuePair({ port = 1, gidIndex, depth = DEFAULT_DEPTH }) {
    return new RdmaQueuePair(await addon().createPair(this.#handle, { port, gidIndex, depth }))
  }

  close() {
    this.#closed ??= addon().closeDevice(this.#handle)
    return this.#closed
  }
}

function withDefaults({ localWrite = true, remoteRead = false, remoteWrite = false }) {
  return { localWrite, remoteRead, remoteWrite }
}

export function loadRdma() {
  addon()
  return { probe: probeRdma, openDevice, transfer }
}

export function rdmaBuildInfo() {
  return addon().buildInfo
}

export async function probeRdma() {
  return addon().probe()
}

export async function openDevice(name, { completions = DEFAULT_COMPLETIONS } = {}) {
  return new RdmaDevice(name, await addon().openDevice(name, completions))
}

export async function transfer(direction, request) {
  const { lanes, remotes, transfers, signal, onProgress } = request
  const { pieceBytes = DEFAULT_PIECE_BYTES, timeoutMs = DEFAULT_TIMEOUT_MS } = request
  if (signal?.aborted) throw aborted(signal)
  const native = addon()
  const cancellation = native.newCancellation()
  const cancel = () => native.cancel(cancellation)
  signal?.addEventListener('abort', cancel, { once: true })
  underWay.add(request)
  try {
    return await native.transfer(
      {
        direction,
        lanes: lanes.map(({ pair, local, remoteKeys }) => ({
          pair: pair.handle,
          local: local.map(({ handle }) => handle),
          remoteKeys: Uint32Array.from(remoteKeys),
        })),
        remotes: BigUint64Array.from(remotes.flatMap(({ address, bytes }) => [address, BigInt(bytes)])),
        transfers,
        pieceBytes,
        timeoutMs,
      },
      cancellation,
      onProgress,
    )
  } catch (error) {
    throw signal?.aborted && error.code === 'ABORTED' ? aborted(signal) : error
  } finally {
    underWay.delete(request)
    signal?.removeEventListener('abort', cancel)
  }
}

function aborted(signal) {
  return Object.assign(new Error('the batch was cancelled', { cause: signal.reason }), { code: 'ABORTED' })
}
