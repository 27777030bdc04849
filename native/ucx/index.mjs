import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const directory = dirname(fileURLToPath(import.meta.url))
const binary = join(directory, 'build', 'Release', 'ckpt_ucx.node')
const build = `pnpm --filter @ckpt/native-ucx build:native (in the repository), or npx cmake-js build in ${directory}`

const DEFAULT_DEPTH = 16
const DEFAULT_PIECE_BYTES = 4 * 2 ** 20
const DEFAULT_TIMEOUT_MS = 30_000

function unavailable(problem, cause) {
  const message = `@ckpt/native-ucx cannot be loaded: ${problem}\n- build it (g++, cmake, make and libucx-dev): ${build}`
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

/** Buffers of open regions, by region: otherwise nothing might hold what UCX reads and writes. */
const buffers = new WeakMap()

/** Transports and devices in what `ucp_context_print_info` and `ucp_ep_print_info` write. */
const RESOURCE = /resource +\d+ .* (\w+\/\S+)$/gm
const LANE = /lane\[\d+\]: +\d+:(\w+\/\S+?)(?:\.\d+)? md/gm

function named(text, pattern) {
  return [...new Set([...text.matchAll(pattern)].map((match) => match[1]))]
}

export class UcxRegion {
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

export class UcxConnection {
  #handle

  constructor({ handle, description }) {
    this.#handle = handle
    this.transports = named(description, LANE)
  }

  get handle() {
    return this.#handle
  }

  get alive() {
    return addon().isAlive(this.#handle)
  }

  close() {
    addon().disconnect(this.#handle)
  }
}

export class UcxWorker {
  #handle
  #closed

  constructor({ handle, address, resources }) {
    this.#handle = handle
    this.address = address
    this.transports = named(resources, RESOURCE)
  }

  get handle() {
    return this.#handle
  }

  async registerMemory(memory) {
    const views = Array.isArray(memory) ? memory : [memory]
    return new UcxRegion(await addon().registerViews(this.#handle, views), views)
  }

  async connect(address, { timeoutMs }) {
    return new UcxConnection(await addon().connect(this.#handle, address, Math.ceil(timeoutMs)))
  }

  close() {
    this.#closed ??= addon().closeWorker(this.#handle)
    return this.#closed
  }
}

export function loadUcx() {
  addon()
  return { probe: probeUcx, createWorker: createUcxWorker, transfer }
}

export function ucxBuildInfo() {
  return addon().buildInfo
}

export async function probeUcx() {
  return addon().probe()
}

export async function createUcxWorker({ transports = '' } = {}) {
  return new UcxWorker(await addon().createWorker(transports))
}

export async function transfer(direction, request) {
  const { connection, remotes, local, transfers, signal, onProgress } = request
  const { pieceBytes = DEFAULT_PIECE_BYTES, depth = DEFAULT_DEPTH, timeoutMs = DEFAULT_TIMEOUT_MS } = request
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
        connection: connection.handle,
        remotes: remotes.map(({ address, bytes, remoteKey }) => ({ address, bytes, remoteKey })),
        local: local.map(({ handle }) => handle),
        transfers,
        pieceBytes,
        depth,
        timeoutMs: Math.ceil(timeoutMs),
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
