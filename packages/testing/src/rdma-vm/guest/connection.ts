/** A connection between this process and a peer process, over one or several pairs of devices. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { openDevice, transfer, type RdmaDevice, type RdmaMemoryRegion, type RdmaQueuePair } from '@ckpt/rdma-core-bindings'
import { pages } from './bytes.ts'
import type { PeerCalls, Served } from './peer.ts'

export interface ConnectionOptions {
  /** This side's devices, each with the connected device of the peer. */
  readonly devices: readonly (readonly [own: string, peers: string])[]
  readonly bytes: number
  readonly seed?: number
  readonly pairs?: number
  readonly writable?: boolean
  readonly timeout?: number
  readonly retries?: number
  readonly depth?: number
}

/** Entry of the GID table that has the IPv4 address. */
const GID_INDEX = 1
/** Emulated machines are slow to answer: 268 ms. */
const ACK_TIMEOUT = 16

export class Connection implements AsyncDisposable {
  readonly bytes: number
  readonly memory: Buffer
  readonly #child: ChildProcess
  #served!: Served
  #devices: RdmaDevice[] = []
  #regions: RdmaMemoryRegion[] = []
  /** By device. */
  #pairs: RdmaQueuePair[][] = []

  private constructor(bytes: number) {
    this.bytes = bytes
    this.memory = pages(bytes)
    this.#child = fork(fileURLToPath(new URL('./peer.ts', import.meta.url)), { serialization: 'advanced' })
  }

  static async open(options: ConnectionOptions): Promise<Connection> {
    const { devices, bytes, seed = 1, pairs = 1, writable = false, timeout = ACK_TIMEOUT, retries = 3, depth = 16 } = options
    const connection = new Connection(bytes)
    const names = devices.map(([, peers]) => peers)
    connection.#served = await connection.call('serve', { devices: names, bytes, seed, writable, pairs, gidIndex: GID_INDEX })
    for (const [name] of devices) {
      const device = await openDevice(name)
      connection.#devices.push(device)
      connection.#regions.push(await device.registerMemory(connection.memory))
      const own: RdmaQueuePair[] = []
      for (let i = 0; i < pairs; i++) own.push(await device.createQueuePair({ gidIndex: GID_INDEX, depth }))
      connection.#pairs.push(own)
    }
    const endpoints = connection.#pairs.flat().map(({ local }) => local)
    await connection.call('connect', { endpoints, timeout, retries })
    const remote = connection.#served.endpoints.flat()
    await Promise.all(connection.#pairs.flat().map((pair, index) => pair.connect(remote[index]!, { timeout, retries })))
    return connection
  }

  async call<K extends keyof PeerCalls>(call: K, argument: PeerCalls[K][0]): Promise<PeerCalls[K][1]> {
    this.#child.send({ call, argument })
    const [message] = (await once(this.#child, 'message')) as [{ value: PeerCalls[K][1] } | { error: string }]
    if ('error' in message) throw new Error(message.error)
    return message.value
  }

  /** Rows are peer's offset, own offset, bytes; the whole memory if none are given. */
  move(
    direction: 'read' | 'write',
    options: {
      rows?: readonly (readonly [number, number, number])[]
      keyOffset?: number
      timeoutMs?: number
      signal?: AbortSignal
      pieceBytes?: number
      onProgress?: (bytes: number) => void
    } = {},
  ): Promise<number> {
    const { rows = [[0, 0, this.bytes]], keyOffset = 0, timeoutMs = 20_000, signal, pieceBytes, onProgress } = options
    const lanes = this.#pairs.flatMap((pairs, device) =>
      pairs.map((pair) => ({
        pair,
        local: [this.#regions[device]!],
        remoteKeys: [this.#served.remoteKeys[device]! + keyOffset],
      })),
    )
    return transfer(direction, {
      lanes,
      remotes: [{ address: this.#served.address, bytes: this.bytes }],
      transfers: Float64Array.from(rows.flatMap(([remote, local, bytes]) => [0, remote, 0, local, bytes])),
      timeoutMs,
      ...(pieceBytes !== undefined && { pieceBytes }),
      ...(signal && { signal }),
      ...(onProgress && { onProgress }),
    })
  }

  kill(): void {
    this.#child.kill('SIGKILL')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#pairs.flat().map((pair) => pair.close()))
    await Promise.all(this.#regions.map((region) => region.close()))
    await Promise.all(this.#devices.map((device) => device.close()))
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const gone = once(this.#child, 'exit')
      this.#child.kill('SIGKILL')
      await gone
    }
  }
}
