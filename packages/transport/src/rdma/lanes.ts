import { CkptError, type EndpointDescriptor } from '@ckpt/contract'
import type { RdmaDevice, RdmaQueuePair } from '@ckpt/rdma-core-bindings'
import { native } from '../addon.ts'
import type { BootstrapClient } from './client.ts'
import type { RdmaSettings } from './options.ts'

export interface LaneOptions {
  readonly settings: RdmaSettings
  /** By NIC. */
  readonly devices: readonly RdmaDevice[]
}

/** A queue pair, and the NICs at its ends. */
export interface OpenLane {
  readonly pair: RdmaQueuePair
  readonly own: number
  readonly peers: number
}

/**
 * Pairs NICs: as many connections as the side with more NICs has, with the others used in turn, so that every NIC of both sides
 * is used; first with first, as the rails of two equal machines are wired.
 *
 * @param own - Link layers by NIC.
 * @throws CkptError `UNSUPPORTED` if no two NICs have the same link layer.
 */
export function pairNics(own: readonly string[], peers: readonly string[]): { own: number; peers: number }[] {
  const pairs = ['InfiniBand', 'Ethernet'].flatMap((layer) => {
    const indices = (layers: readonly string[]) => layers.flatMap((one, index) => (one === layer ? [index] : []))
    const left = indices(own)
    const right = indices(peers)
    if (left.length === 0 || right.length === 0) return []
    const count = Math.max(left.length, right.length)
    return Array.from({ length: count }, (_, k) => ({ own: left[k % left.length]!, peers: right[k % right.length]! }))
  })
  if (pairs.length > 0) return pairs
  throw new CkptError(
    'UNSUPPORTED',
    `NICs of ${own.join(', ') || 'no'} link layer cannot reach those of ${peers.join(', ') || 'none'}`,
  )
}

/** Queue pairs to one peer. Created on first use, and created again when they were retired. */
export class Lanes {
  readonly #client: BootstrapClient
  readonly #options: LaneOptions
  readonly #nics: readonly { own: number; peers: number }[]
  #current: Promise<OpenLane[]> | undefined
  #generation = 0
  #closed = false

  constructor(client: BootstrapClient, descriptor: EndpointDescriptor, options: LaneOptions) {
    this.#client = client
    this.#options = options
    const layers = descriptor.details?.['linkLayers']
    const peers = Array.isArray(layers) ? (layers as readonly unknown[]).map(String) : []
    this.#nics = pairNics(
      options.settings.nics.map(({ linkLayer }) => linkLayer),
      peers,
    )
  }

  /** Number of sets of queue pairs so far. */
  get generation(): number {
    return this.#generation
  }

  open(timeoutMs: number): Promise<readonly OpenLane[]> {
    this.#current ??= this.#make(timeoutMs).catch((error: unknown) => {
      this.#current = undefined
      throw error
    })
    return this.#current
  }

  /** Lets the set of a generation be replaced at the next {@link open}; does nothing if that has happened. */
  retire(generation: number): void {
    if (generation !== this.#generation) return
    this.#generation++
    void this.#drop()
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#drop()
  }

  async #drop(): Promise<void> {
    const old = this.#current
    this.#current = undefined
    const lanes = await old?.catch(() => [])
    await closeAll(lanes ?? [])
  }

  async #make(timeoutMs: number): Promise<OpenLane[]> {
    const { settings, devices } = this.#options
    const lanes: OpenLane[] = []
    try {
      for (const { own, peers } of this.#nics) {
        for (let i = 0; i < settings.queuePairs; i++) {
          const { port, gidIndex } = settings.nics[own]!
          const pair = await native(() => devices[own]!.createQueuePair({ port, gidIndex, depth: settings.depth }))
          lanes.push({ pair, own, peers })
        }
      }
      const endpoints = await this.#client.open(
        lanes.map(({ pair, peers }) => ({ nic: peers, endpoint: pair.local })),
        timeoutMs,
      )
      await Promise.all(lanes.map(({ pair }, index) => native(() => pair.connect(endpoints[index]!, settings.connection))))
      if (this.#closed) throw new CkptError('ABORTED', 'the connection was closed')
      return lanes
    } catch (error) {
      await closeAll(lanes)
      throw error
    }
  }
}

async function closeAll(lanes: readonly OpenLane[]): Promise<void> {
  await Promise.allSettled(lanes.map(({ pair }) => pair.close()))
}
