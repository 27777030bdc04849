import { CkptError } from '@ckpt/contract'
import type { RdmaDevice, RdmaEndpoint, RdmaQueuePair } from '@ckpt/rdma-core-bindings'
import { native } from '../addon.ts'
import { ConversationServer, type Session } from '../bootstrap/server.ts'
import { DIALECT, type Reply, type Request, type ResolvedRegion } from './messages.ts'
import type { RdmaSettings } from './options.ts'

/** Parts of the endpoint that the server uses. */
export interface Served {
  readonly id: string
  readonly settings: RdmaSettings
  /** By NIC. */
  readonly devices: readonly RdmaDevice[]
  regionOf(key: string): ResolvedRegion | 'closed' | undefined
}

/**
 * Server on which peers agree with an endpoint on queue pairs and learn the locations of regions. It only takes part in
 * connecting; later reads are served by the device alone.
 */
export class BootstrapServer extends ConversationServer<Request, Reply> {
  constructor(served: Served) {
    super({ dialect: DIALECT, id: served.id, secret: served.settings.secret, open: () => new QueuePairs(served) })
  }
}

/** The queue pairs that serve one peer. */
class QueuePairs implements Session<Request, Reply> {
  readonly #served: Served
  #pairs: RdmaQueuePair[] = []
  #ended = false

  constructor(served: Served) {
    this.#served = served
  }

  answer(message: Request): ReturnType<Session<Request, Reply>['answer']> {
    if (message.type === 'open') return this.#open(message)
    return { type: 'resolved', regions: message.keys.map((key) => this.#served.regionOf(key) ?? null) }
  }

  async end(): Promise<void> {
    this.#ended = true
    await this.#replacePairs([])
  }

  async #open({ lanes }: Extract<Request, { type: 'open' }>): Promise<{ type: 'opened'; endpoints: RdmaEndpoint[] }> {
    const { settings, devices } = this.#served
    // The old pairs of a renewed set are useless: a failed reliable connection stays so.
    await this.#replacePairs([])
    const pairs: RdmaQueuePair[] = []
    try {
      for (const { nic: index, endpoint } of lanes) {
        const nic = settings.nics[index]
        if (nic === undefined) throw new CkptError('INVALID_ARGUMENT', `there is no NIC ${index}`)
        // This side never sends requests of its own.
        const pair = await native(() => devices[index]!.createQueuePair({ port: nic.port, gidIndex: nic.gidIndex, depth: 1 }))
        pairs.push(pair)
        await native(() => pair.connect(endpoint, settings.connection))
      }
    } catch (error) {
      await Promise.all(pairs.map((pair) => pair.close()))
      throw error
    }
    await this.#replacePairs(pairs)
    return { type: 'opened', endpoints: pairs.map(({ local }) => local) }
  }

  async #replacePairs(pairs: RdmaQueuePair[]): Promise<void> {
    const old = this.#pairs
    this.#pairs = pairs
    await Promise.allSettled(old.map((pair) => pair.close()))
    if (this.#ended && pairs.length > 0) await this.#replacePairs([])
  }
}
