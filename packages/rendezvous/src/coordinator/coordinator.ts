import { AGAIN_MS, CkptError, FIRST_MS } from '@ckpt/contract'
import { sameSecret } from '@ckpt/utils'

import { BlobStore } from '../blobs.ts'
import { abortedError, rankLost } from '../errors.ts'
import type { Settings } from '../options.ts'
import { startDeadline } from '../timers.ts'
import {
  errorData,
  pack,
  PROTOCOL,
  protocolError,
  readRankMessage,
  type CoordinatorMessage,
  type FetchMessage,
  type GatherMessage,
  type JoinMessage,
  type RankMessage,
} from '../wire/messages.ts'
import type { Frames } from '../wire/socket.ts'
import { Epochs, type OpenEpoch } from './epochs.ts'
import { Gathers, type Contribution, type Gather } from './gathers.ts'
import { Applicants } from './applicants.ts'
import { overLimit, Publications } from './limits.ts'
import { Members, taken, type Member } from './members.ts'
import { RankReports, REPORT_KEY, REPORTS_KEY } from './rank-reports.ts'

/**
 * A message may be in flight when its sender dies: only messages this many milliseconds after the request for its place count.
 */
const SETTLE_MS = 100
const MAX_RANKS = 65_536
/** Maximum number of missing ranks named in a message. */
const MAX_NAMED = 16

/** Sends a message to the connection with this routing id. */
export type SendTo = (peer: string, frames: Frames) => void

/**
 * Decides everything that ranks must agree on: members, completed gathers, running epoch. It has no sockets: messages come in
 * through {@link receive}, time through {@link tick}, and answers go out through the given function.
 */
export class Coordinator {
  readonly #settings: Settings
  readonly #send: SendTo
  readonly #onSilent: (peer: string) => void
  readonly #members = new Members()
  readonly #gathers = new Gathers()
  readonly #epochs = new Epochs()
  readonly #blobs: BlobStore
  readonly #applicants = new Applicants()
  #everybody: readonly number[] = []
  readonly #published = new Publications()
  readonly #reports = new RankReports()

  /** `onSilent` gets the connection of each member that was lost because no complete message came from it. */
  constructor(settings: Settings, send: SendTo, onSilent: (peer: string) => void = () => undefined) {
    this.#settings = settings
    this.#send = send
    this.#onSilent = onSilent
    this.#blobs = new BlobStore(settings.heartbeatTimeoutMs)
    this.#resize(settings.worldSize)
  }

  /**
   * Handles one message of the connection `peer`. Never throws: a peer that violates the protocol is notified and dismissed.
   */
  receive(peer: string, frames: Frames): void {
    const member = this.#members.byPeer(peer)
    const name = member ? `rank ${member.rank}` : `peer ${peer}`
    try {
      const message = readRankMessage(frames, name)
      if (message.type === 'join') return this.#join(peer, message)
      if (message.type === 'fetch') return this.#fetch(peer, message)
      if (!member) return this.#stranger(peer, name, message)
      if (member.gone) return this.#tell(member.peer, { type: 'dismissed', error: errorData(member.gone) })
      member.heard = performance.now()
      this.#settle(member)
      this.#handle(member, message, frames)
    } catch (error) {
      const fault = CkptError.from(error, 'RENDEZVOUS_PROTOCOL', `a message of ${name} could not be handled`, { peer: name })
      this.#tell(peer, { type: 'dismissed', error: errorData(fault) })
      if (fault.code === 'RENDEZVOUS_REJECTED') return
      this.#settings.onFault(fault)
      if (member && !member.gone) this.#remove(member, fault)
    }
  }

  /**
   * Sends heartbeats and finds members that were silent too long; `stalledMs` is time in which this process itself could not
   * receive.
   */
  tick(stalledMs: number): void {
    const now = performance.now()
    const { heartbeatTimeoutMs } = this.#settings
    for (const member of this.#members.live()) {
      member.heard += stalledMs
      const silent = now - member.heard
      if (silent > heartbeatTimeoutMs) {
        const { rank, pid, host } = member
        this.#remove(member, rankLost(rank, `rank ${rank} (process ${pid} on ${host}) was silent for ${Math.round(silent)} ms`))
        this.#onSilent(member.peer)
      } else {
        this.#tell(member.peer, { type: 'beat' })
      }
    }
    if (this.#idle) for (const { peer, message } of this.#applicants.takeNewcomers()) this.receive(peer, [pack(message)])
    this.#tellWhoIsMissing(now)
    this.#blobs.sweep()
  }

  #tellWhoIsMissing(now: number): void {
    for (const { gather, contribution } of this.#gathers.overdue(now)) {
      contribution.tellAt = now + AGAIN_MS
      const ranks = this.#gathers.missing(gather)
      const names = ranks.slice(0, MAX_NAMED).map((rank) => this.#members.describe(rank))
      const more = ranks.length > names.length ? ` and ${ranks.length - names.length} more` : ''
      const message = { type: 'waiting', id: contribution.id, ranks, names: names.join(', ') + more } as const
      this.#tell(contribution.member.peer, message)
    }
  }

  /** Dismisses every rank. */
  close(reason: CkptError): void {
    for (const gather of this.#gathers.select(() => true)) this.#gathers.close(gather)
    for (const member of this.#members.live()) {
      member.gone = reason
      this.#tell(member.peer, { type: 'dismissed', error: errorData(reason) })
    }
  }

  #handle(member: Member, message: Exclude<RankMessage, JoinMessage | FetchMessage>, frames: Frames): void {
    switch (message.type) {
      case 'beat':
        for (const id of message.ended) this.#epochs.leave(id, member.rank)
        return
      case 'leave':
        for (const id of message.ended) this.#epochs.leave(id, member.rank)
        this.#remove(member, rankLost(member.rank, `rank ${member.rank} has left`))
        return
      case 'gather':
        this.#gather(member, message, frames[1])
        return
      case 'payload':
        this.#payload(member, message.id, frames[1]!)
        return
      case 'want':
        this.#deliver(member, message.id, message.digests)
        return
      case 'publish':
        if (message.key === REPORT_KEY) this.#reports.put(member, frames[1]!)
        else this.#published.put(message.key, frames[1]!)
        return
      case 'cancel': {
        const gather = this.#gathers.waitOf(member, message.id)
        if (gather) this.#gathers.withdraw(gather, member.rank)
        return
      }
      case 'abort': {
        const epoch = this.#epochs.get(message.epoch)
        if (epoch?.inside.has(member.rank)) this.#abort(epoch, member.rank, CkptError.deserialize(message.error))
      }
    }
  }

  /** Handles a message of a peer that is not a member: a member of a previous coordinator, or one that has been replaced. */
  #stranger(peer: string, name: string, message: RankMessage): void {
    if (message.type === 'leave') return
    const text = `${name} is not a member (any more): join again`
    const error = new CkptError('RANK_LOST', text, { fields: { peer: name, rejoin: true } })
    this.#tell(peer, { type: 'dismissed', error: errorData(error) })
  }

  #join(peer: string, message: JoinMessage): void {
    const { heartbeatMs, heartbeatTimeoutMs, elastic } = this.#settings
    const { rank } = message
    const worldSize = this.#everybody.length
    if (!sameSecret(message.token, this.#settings.token)) throw rejected(rank, 'its token differs from that of this run')
    if (message.protocol !== PROTOCOL)
      throw rejected(rank, `it uses protocol ${message.protocol}, this coordinator ${PROTOCOL}`)
    if (message.worldSize !== worldSize && !elastic)
      throw rejected(rank, `it expects ${message.worldSize} ranks, but there are ${worldSize}`)
    const size = Math.max(worldSize, message.worldSize)
    if (size > MAX_RANKS) throw rejected(rank, `${size} ranks are more than ${MAX_RANKS}`)
    if (rank >= size) throw rejected(rank, `ranks go up to ${size - 1}`)
    // Waits for all ranks must see the same ranks from beginning to end.
    if (size > worldSize && !this.#idle) return this.#applicants.newcomer(peer, message)
    const rival = this.#members.byPeer(peer) ? undefined : this.#members.rivalOf(peer, message)
    if (rival) return this.#replacedApplicant(this.#applicants.contend(peer, message), rival)
    this.#members.add(peer, message)
    if (size > worldSize) this.#resize(size)
    this.#tell(peer, { type: 'welcome', worldSize: size, heartbeatMs, heartbeatTimeoutMs })
  }

  /** A rank that is heard from keeps its place: requests for it are refused. */
  #settle(member: Member): void {
    const applicant = this.#applicants.refuse(member.rank, Math.min(SETTLE_MS, this.#settings.heartbeatMs))
    if (applicant) this.#tell(applicant.peer, { type: 'dismissed', error: errorData(taken(member)) })
  }

  #replacedApplicant(peer: string | undefined, rival: Member): void {
    if (peer !== undefined) this.#tell(peer, { type: 'dismissed', error: errorData(taken(rival)) })
  }

  /** True if no rank waits for another. */
  get #idle(): boolean {
    return this.#epochs.size === 0 && this.#gathers.size === 0
  }

  #resize(worldSize: number): void {
    this.#everybody = Array.from({ length: worldSize }, (_, rank) => rank)
    for (const member of this.#members.live()) this.#tell(member.peer, { type: 'world', worldSize })
  }

  #fetch(peer: string, { protocol, token, key }: FetchMessage): void {
    const refuse = (why: string) => new CkptError('RENDEZVOUS_REJECTED', `${key} may not be fetched: ${why}`)
    if (!sameSecret(token, this.#settings.token)) throw refuse('the token differs from that of this run')
    if (protocol !== PROTOCOL) throw refuse(`it uses protocol ${protocol}, this coordinator ${PROTOCOL}`)
    const payload = key === REPORTS_KEY ? this.#reports.encode(this.#members.all()) : this.#published.get(key)
    this.#tell(peer, { type: 'published', key, found: payload !== undefined }, payload ? [payload] : [])
  }

  #gather(member: Member, message: GatherMessage, value: Uint8Array | undefined): void {
    const ranks = message.ranks ?? this.#everybody
    const { id, kind, epoch } = message
    const name = `rank ${member.rank}`
    if (this.#gathers.waitOf(member, id)) throw protocolError(name, `gather ${id} twice`)
    if (
      !ranks.includes(member.rank) ||
      !ranks.every((rank, i) => rank < this.#everybody.length && rank > (ranks[i - 1] ?? -1))
    ) {
      throw protocolError(name, `gather of ranks ${ranks.join(', ')}`)
    }
    if ((kind === 'blob') !== (message.digest !== null)) throw protocolError(name, `digest of a ${kind}`)
    const { open, bytes } = this.#gathers.openOf(member)
    const refusal = overLimit(member.rank, open, bytes, value?.byteLength ?? 0) ?? this.#refusal(ranks, epoch)
    if (refusal) return this.#tell(member.peer, { type: 'failed', id, error: errorData(refusal) })

    const gather = this.#gathers.join(message, ranks, member.rank)
    const payload = message.digest === null ? (value ?? new Uint8Array()) : this.#blobs.broughtBy(member.rank, message.digest)
    const contribution: Contribution = {
      member,
      id,
      timeoutMs: message.timeoutMs,
      digest: message.digest ?? undefined,
      payload,
      tellAt: message.hears === true ? performance.now() + FIRST_MS : Infinity,
      stop: startDeadline(message.timeoutMs, () => this.#expire(gather, contribution)),
    }
    this.#gathers.contribute(gather, contribution)
    if (payload === undefined) this.#tell(member.peer, { type: 'need', id })
    const other = this.#gathers.conflict(gather)
    if (other) {
      const lists = [other, gather].map((one) => `[${one.ranks.join(', ')}]`).join(' and ')
      const error = new CkptError(
        'INVALID_ARGUMENT',
        `${describe(gather)}: ranks ${lists} wait for each other: they must name the same ranks`,
        {
          fields: { field: 'ranks', ranks: gather.ranks, others: other.ranks },
        },
      )
      this.#fail(other, error)
      this.#fail(gather, error)
      return
    }
    this.#completeIfAll(gather)
  }

  /** Returns the reason why such a gather cannot succeed, if known. */
  #refusal(ranks: readonly number[], epochId: number | null): CkptError | undefined {
    if (epochId !== null) {
      const epoch = this.#epochs.get(epochId)
      if (!epoch) return new CkptError('INVALID_STATE', `epoch ${epochId} is not running`, { fields: { epoch: epochId } })
      if (epoch.aborted) return abortedError(epoch.id, epoch.aborted.rank, epoch.aborted.error)
      const outside = ranks.filter((rank) => !epoch.ranks.includes(rank))
      if (outside.length > 0) {
        return new CkptError('INVALID_ARGUMENT', `ranks ${outside.join(', ')} are not in epoch ${epochId}`, {
          fields: { field: 'ranks', ranks: outside, epoch: epochId },
        })
      }
    }
    for (const rank of ranks) {
      const gone = this.#members.get(rank)?.gone
      if (gone) return gone
    }
    return undefined
  }

  #payload(member: Member, id: number, payload: Uint8Array): void {
    const gather = this.#gathers.waitOf(member, id)
    const contribution = gather?.contributions.get(member.rank)
    // Its gather may have failed while the payload was in flight.
    if (!gather || !contribution) return
    const { open, bytes } = this.#gathers.openOf(member)
    const failure = overLimit(member.rank, open - 1, bytes, payload.byteLength) ?? this.#otherPayload(contribution, payload)
    if (failure) {
      this.#gathers.withdraw(gather, member.rank)
      return this.#tell(member.peer, { type: 'failed', id, error: errorData(failure) })
    }
    contribution.payload = payload
    this.#completeIfAll(gather)
  }

  /** A digest names one payload: no rank may send a different payload under the digest of another rank. */
  #otherPayload({ member, digest }: Contribution, payload: Uint8Array): CkptError | undefined {
    const known = this.#blobs.get(digest!)
    if (known === undefined || Buffer.compare(known, payload) === 0) return undefined
    const text = `rank ${member.rank} sent a payload that differs from the known payload with its digest ${digest}`
    return new CkptError('RENDEZVOUS_PROTOCOL', text, { fields: { rank: member.rank, field: 'digest', digest } })
  }

  #completeIfAll(gather: Gather): void {
    if (this.#gathers.missing(gather).length > 0) return
    const parts = this.#gathers.close(gather)
    const epoch = gather.kind === 'epoch' ? this.#epochs.begin(gather.ranks).id : null
    for (const { member, digest, payload } of parts) {
      if (digest !== undefined) this.#blobs.put(gather.key, member.rank, digest, payload!)
    }
    const digests = gather.kind === 'blob' ? parts.map((part) => part.digest!) : null
    const values = gather.kind === 'value' ? parts.map((part) => part.payload!) : []
    for (const { member, id } of parts) this.#tell(member.peer, { type: 'gathered', id, epoch, digests }, values)
  }

  #deliver(member: Member, id: number, digests: readonly string[]): void {
    const payloads = digests.map((digest) => this.#blobs.get(digest))
    if (payloads.every((payload) => payload !== undefined)) {
      return this.#tell(member.peer, { type: 'payloads', id, digests: [...digests] }, payloads)
    }
    const error = new CkptError('ABORTED', 'a gathered payload was replaced before this rank fetched it', {
      fields: { rank: member.rank },
    })
    this.#tell(member.peer, { type: 'failed', id, error: errorData(error) })
  }

  #expire(gather: Gather, contribution: Contribution): void {
    const missing = this.#gathers.missing(gather)
    this.#gathers.withdraw(gather, contribution.member.rank)
    const error = new CkptError(
      'RANK_MISSING',
      `${describe(gather)}: after ${contribution.timeoutMs} ms still waiting for ${missing.map((rank) => this.#members.describe(rank)).join(', ')}`,
      { fields: { ranks: missing, rank: contribution.member.rank, key: gather.key } },
    )
    this.#tell(contribution.member.peer, { type: 'failed', id: contribution.id, error: errorData(error) })
  }

  #fail(gather: Gather, error: CkptError): void {
    const data = errorData(error)
    for (const { member, id } of this.#gathers.close(gather)) this.#tell(member.peer, { type: 'failed', id, error: data })
  }

  #abort(epoch: OpenEpoch, rank: number, error: CkptError): void {
    if (epoch.aborted) return
    epoch.aborted = { rank, error }
    for (const gather of this.#gathers.select((open) => open.epoch === epoch.id)) this.#gathers.close(gather)
    const data = errorData(error)
    for (const inside of epoch.inside) {
      const member = this.#members.get(inside)
      if (member && !member.gone) this.#tell(member.peer, { type: 'aborted', epoch: epoch.id, rank, error: data })
    }
  }

  #remove(member: Member, reason: CkptError): void {
    member.gone = reason
    const { rank } = member
    this.#tell(member.peer, { type: 'dismissed', error: errorData(reason) })
    for (const gather of this.#gathers.select((open) => open.contributions.get(rank)?.member === member))
      this.#gathers.withdraw(gather, rank)
    for (const gather of this.#gathers.select((open) => open.ranks.includes(rank))) this.#fail(gather, reason)
    for (const epoch of this.#epochs.of(rank)) {
      this.#abort(epoch, rank, reason)
      this.#epochs.leave(epoch.id, rank)
    }
    const applicant = this.#applicants.admit(rank)
    if (applicant) this.receive(applicant.peer, [pack(applicant.message)])
  }

  #tell(peer: string, message: CoordinatorMessage, payloads: readonly Uint8Array[] = []): void {
    this.#send(peer, [pack(message), ...payloads])
  }
}

function rejected(rank: number, why: string): CkptError {
  return new CkptError('RENDEZVOUS_REJECTED', `rank ${rank} may not join: ${why}`, { fields: { rank } })
}

function describe(gather: Gather): string {
  const scope = gather.epoch === null ? '' : ` in epoch ${gather.epoch}`
  return `${gather.kind === 'epoch' ? 'beginEpoch' : `${gather.kind} gather "${gather.key}"`}${scope}`
}
