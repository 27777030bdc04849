import { CkptError, type ConnectPeerOptions, type EndpointDescriptor } from '@ckpt/contract'
import { Conversation, reach } from '../bootstrap/conversation.ts'
import { DIALECT, type Reply, type Request, type ResolvedRegion } from './messages.ts'

/** The connecting side's conversation with a UCX endpoint. */
export class UcxConversation extends Conversation<Request, Reply> {
  /** Connects to the first address that answers. Errors as for `OneSided.connect`. */
  static connect(descriptor: EndpointDescriptor, options: ConnectPeerOptions): Promise<UcxConversation> {
    return reach((socket) => new UcxConversation(socket, DIALECT, descriptor, options.secret), descriptor, options)
  }

  /**
   * Returns the address of the peer's worker. @throws CkptError `UNSUPPORTED` if its UCX has a different version than `own`:
   * UCX ends the process at an address that it does not understand.
   */
  async open(own: string, peer: string, timeoutMs: number): Promise<Buffer> {
    const answer = await this.ask({ type: 'open' }, timeoutMs)
    if (answer.type !== 'opened') throw this.unexpected()
    const [ours, theirs] = [own, answer.version].map((version) => version.split('.').slice(0, 2).join('.'))
    if (ours === theirs) return Buffer.from(answer.address, 'base64')
    const text = `endpoint ${peer} uses UCX ${answer.version}, not ${own}: install the same version on both`
    throw new CkptError('UNSUPPORTED', text, { fields: { peer } })
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

  /** Tells the peer that no batch uses its closed regions any more. */
  async release(keys: readonly string[], timeoutMs: number): Promise<void> {
    await this.ask({ type: 'released', keys: [...keys] }, timeoutMs)
  }
}
