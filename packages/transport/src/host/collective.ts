import { createHash } from 'node:crypto'
import {
  CkptError,
  type BucketColumns,
  type Collective,
  type CollectiveOptions,
  type Host,
  type HostMemory,
  type MemoryIdentity,
  type PipelineJob,
  type PipelineRun,
} from '@ckpt/contract'
import type { NativeMemory } from '@ckpt/native-host'
import { hostAddon, nativeSync } from '../addon.ts'
import { withDeadline } from '@ckpt/utils'
import { flatJob } from '../flat-job.ts'
import { NativeRun, STATES } from '../pipeline-handle.ts'
import { nativeMemory } from './memory.ts'
import { hostRing, type HostRing } from './ring.ts'

/** Time in milliseconds after an exchange's own deadline at which it is abandoned. */
const EXCHANGE_GRACE_MS = 500

/** Data that the members exchange before each run. */
interface Offer {
  /** The member's ring in /dev/shm, with its identity. */
  readonly ring: string
  readonly identity: MemoryIdentity
  /** Last run in which it took part. */
  readonly generation: number
  /** Digest of the buckets that the member will process. */
  readonly plan: string
}

/**
 * Members on one machine that move buckets through each other's rings. The exchange before each run is also the barrier between
 * runs: a ring's counters are reset only when every member has finished the run before.
 */
export class HostCollective implements Collective {
  readonly position: number
  readonly size: number
  readonly #host: Host
  readonly #options: CollectiveOptions
  readonly #peers = new Map<number, { readonly name: string; readonly memory: HostMemory }>()
  #runs = 0
  #state: 'ready' | 'running' | 'failed' | 'closed' = 'ready'
  #run: NativeRun | undefined

  /** @throws CkptError `INVALID_ARGUMENT` if the position is not in the group. */
  constructor(host: Host, options: CollectiveOptions) {
    const { position, size } = options
    if (!Number.isSafeInteger(size) || size < 1 || !Number.isSafeInteger(position) || position < 0 || position >= size) {
      throw new CkptError('INVALID_ARGUMENT', `position ${position} of ${size} members`, { fields: { field: 'position' } })
    }
    this.position = position
    this.size = size
    this.#host = host
    this.#options = options
  }

  get closed(): boolean {
    return this.#state === 'closed'
  }

  /** `onBucket` is never called before the promise has resolved. */
  async run(job: PipelineJob): Promise<PipelineRun> {
    if (this.#state !== 'ready') throw new CkptError('INVALID_STATE', STATES[this.#state])
    const ring = hostRing(job.ring)
    this.#state = 'running'
    try {
      this.#run = await this.#start(job, ring)
    } catch (error) {
      this.#fail()
      throw error
    }
    const run = this.#run
    const stopListening = run.abortOn(this.#options.signal)
    void run.finished
      .then(
        () => {
          if (this.#state === 'running') this.#state = 'ready'
        },
        () => this.#fail(),
      )
      .finally(() => {
        this.#run = undefined
        stopListening()
      })
    return run
  }

  async close(): Promise<void> {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    const run = this.#run
    run?.abort(new CkptError('ABORTED', `member ${this.position} closed the collective`))
    await run?.finished.catch(() => undefined)
    this.#unmapPeers()
  }

  async #start(job: PipelineJob, ring: HostRing): Promise<NativeRun> {
    const addon = hostAddon()
    const own = nativeMemory(ring.memory)
    const plan = planDigest(job.buckets)
    const { device, inode, bytes } = ring.memory.identity!
    const identity = { device, inode, bytes }
    const offer: Offer = { ring: ring.handle.name, identity, generation: nativeSync(() => addon.ringGeneration(own)), plan }
    const { exchange, timeoutMs, signal } = this.#options
    const key = `host-pipeline-${this.#runs++}`
    // The exchange has its own deadline, and its error names the missing members: it comes first.
    const longest = timeoutMs + EXCHANGE_GRACE_MS
    const offers = await withDeadline(exchange(key, offer), {
      what: `the other members to start pipeline ${key}`,
      timeoutMs: longest,
      signal,
    })
    if (offers.length !== this.size) {
      throw new CkptError('INVALID_ARGUMENT', `${offers.length} members answered, not ${this.size}`)
    }
    // Higher than any number that one of the rings has seen, so that a member in an older run cannot confuse the two.
    const generation = Math.max(...offers.map((other) => other.generation)) + 1
    try {
      const other = offers.findIndex((candidate) => candidate.plan !== plan)
      if (other >= 0)
        throw new CkptError('INVALID_ARGUMENT', `member ${other} has different buckets`, { fields: { member: other } })
      const rings = await this.#map(offers, own)
      if (this.#state !== 'running') throw new CkptError('ABORTED', STATES[this.#state])
      const onWritable = job.arrivals?.into === 'ring' ? job.arrivals.onWritable : undefined
      const native = {
        ...flatJob(job, this.position),
        rings,
        sources: job.sources.map(nativeMemory),
        generation,
      }
      return new NativeRun(
        (callbacks) => addon.startPipeline(native, { ...callbacks, ...(onWritable && { onWritable }) }),
        job.onBucket,
      )
    } catch (error) {
      const reason = CkptError.from(error, 'NATIVE_FAILURE')
      nativeSync(() => addon.abortRingRun(own, generation, this.position, reason.message.replaceAll('\0', ' ')))
      throw reason
    }
  }

  /** Maps all members' rings; a mapping is kept as long as the peer offers the same ring. */
  async #map(offers: readonly Offer[], own: NativeMemory): Promise<NativeMemory[]> {
    const rings: NativeMemory[] = []
    for (const [position, { ring: name, identity }] of offers.entries()) {
      if (position === this.position) {
        rings.push(own)
        continue
      }
      let peer = this.#peers.get(position)
      if (peer?.name !== name) {
        peer?.memory.close()
        this.#peers.delete(position)
        const what = `the ring of member ${position}`
        const opening = this.#host.openForeign({ place: { kind: 'shm', path: name }, identity }, { what, writable: true })
        const memory = await opening.catch((error: unknown) => {
          const refused = CkptError.is(error, 'MEMORY_REFUSED')
          const why = error instanceof Error ? `: ${error.message}` : ''
          throw new CkptError(refused ? 'MEMORY_REFUSED' : 'RANK_LOST', `cannot map ${what}${why}`, {
            cause: error,
            fields: { member: position, file: `/dev/shm/${name}` },
          })
        })
        peer = { name, memory }
        this.#peers.set(position, peer)
      }
      rings.push(nativeMemory(peer.memory))
    }
    return rings
  }

  #fail(): void {
    // Closed while a run was starting: it may have mapped rings since.
    if (this.#state === 'closed') this.#unmapPeers()
    else this.#state = 'failed'
  }

  #unmapPeers(): void {
    for (const { memory } of this.#peers.values()) memory.close()
    this.#peers.clear()
  }
}

function planDigest(buckets: Pick<BucketColumns, 'count' | 'owner' | 'bytes' | 'ringOffset' | 'after'>): string {
  const hash = createHash('sha256').update(String(buckets.count))
  for (const column of [buckets.owner, buckets.bytes, buckets.ringOffset, buckets.after]) {
    hash.update(column.subarray(0, buckets.count))
  }
  return hash.digest('base64')
}
