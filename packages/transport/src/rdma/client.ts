import type { ConnectPeerOptions, EndpointDescriptor } from '@ckpt/contract'
import type { RdmaEndpoint } from '@ckpt/rdma-core-bindings'
import { Conversation, reach } from '../bootstrap/conversation.ts'
import { DIALECT, type Reply, type Request, type ResolvedRegion } from './messages.ts'

/** The connecting side's conversation with an RDMA endpoint. */
export class BootstrapClient extends Conversation<Request, Reply> {
  /** Connects to the first address that answers. Errors as for `OneSided.connect`. */
  static connect(descriptor: EndpointDescriptor, options: ConnectPeerOptions): Promise<BootstrapClient> {
    return reach((socket) => new BootstrapClient(socket, DIALECT, descriptor, options.secret), descriptor, options)
  }

  /** @returns the peer's ends, in the order of `lanes`. */
  async open(lanes: readonly { nic: number; endpoint: RdmaEndpoint }[], timeoutMs: number): Promise<readonly RdmaEndpoint[]> {
    const answer = await this.ask({ type: 'open', lanes: [...lanes] }, timeoutMs)
    if (answer.type === 'opened' && answer.endpoints.length === lanes.length) return answer.endpoints
    throw this.unexpected()
  }

  /**
   * Returns the locations of regions; `closed` for one that has been closed, undefined for a key that the peer does not know.
   */
  async resolve(keys: readonly string[], timeoutMs: number): Promise<readonly (ResolvedRegion | 'closed' | undefined)[]> {
    const answer = await this.ask({ type: 'resolve', keys: [...keys] }, timeoutMs)
    if (answer.type === 'resolved' && answer.regions.length === keys.length)
      return answer.regions.map((region) => region ?? undefined)
    throw this.unexpected()
  }
}
