import { randomBytes } from 'node:crypto'
import {
  CkptError,
  type AccessPoint,
  type HostMemory,
  type OneSided,
  type RegisteredRegion,
  type SegmentMeta,
} from '@ckpt/contract'

/** An endpoint of this rank with the secret that it was made with. */
export interface ServedEndpoint {
  readonly endpoint: OneSided
  readonly secret: string
}

/** One registration of a checkpoint as it is served. */
interface Served {
  /** What tells this registration from a later one of the same name. */
  readonly registration: object
  readonly regions: readonly RegisteredRegion[]
  readonly points: readonly AccessPoint[]
}

/** What this rank's one-sided endpoints serve: the segments of its checkpoints, each registration under keys of its own. */
export class Serving {
  readonly #make: () => Promise<readonly ServedEndpoint[]>
  readonly #note: (problem: CkptError) => void
  #endpoints: Promise<readonly ServedEndpoint[]> | undefined
  #made: readonly ServedEndpoint[] = []
  readonly #served = new Map<string, Served>()
  /** Regions that are being closed. */
  readonly #closing = new Set<Promise<void>>()
  #generation = 0
  #closed = false

  /** `make` is called when an endpoint is needed first; `note` hears of one that cannot serve something. */
  constructor(make: () => Promise<readonly ServedEndpoint[]>, note: (problem: CkptError) => void) {
    this.#make = make
    this.#note = note
  }

  /** This rank's endpoints, made at the first call. */
  endpoints(): Promise<readonly ServedEndpoint[]> {
    this.#endpoints ??= this.#make().then((made) => (this.#made = made))
    return this.#endpoints
  }

  /** Bytes that others have read from this rank, as far as its endpoints can tell. */
  get servedBytes(): number {
    return this.#made.reduce((sum, { endpoint }) => sum + (endpoint.servedBytes ?? 0), 0)
  }

  /** Opens a checkpoint's segments to readers, once a registration. */
  async serve(
    name: string,
    registration: object,
    segments: readonly SegmentMeta[],
    memories: readonly HostMemory[],
  ): Promise<readonly AccessPoint[]> {
    const before = this.#served.get(name)
    if (before?.registration === registration) return before.points
    this.close(name)
    const regions: RegisteredRegion[] = []
    const points: AccessPoint[] = []
    const endpoints = await this.endpoints()
    const generation = ++this.#generation
    let failure: unknown
    for (const { endpoint, secret } of endpoints) {
      try {
        const own = await registerAll(endpoint, segments, memories)
        regions.push(...own)
        const descriptors = own.map(({ descriptor }) => descriptor)
        points.push({ endpoint: endpoint.descriptor, regions: descriptors, generation, secret })
      } catch (error) {
        // Another way to the same bytes is enough: a device that may not lock so much memory leaves TCP.
        failure ??= error
        this.#note(CkptError.from(error, 'NATIVE_FAILURE'))
      }
    }
    if (points.length === 0 && endpoints.length > 0) throw CkptError.from(failure, 'NATIVE_FAILURE')
    this.#served.set(name, { registration, regions, points })
    // Unregistered, or closed, while its regions were being made.
    if (this.#closed) this.close(name)
    return points
  }

  /** Closes a checkpoint to readers: from now on its keys are refused, and what is on its way is marked as refused. */
  close(name: string): void {
    const served = this.#served.get(name)
    this.#served.delete(name)
    for (const region of served?.regions ?? []) {
      const closed: Promise<void> = region
        .close()
        .catch(() => undefined) // its endpoint goes with the process
        .finally(() => this.#closing.delete(closed))
      this.#closing.add(closed)
    }
  }

  /** Resolves when nobody reads any more from what has been closed, so that its memory may be put to another use. */
  async settled(): Promise<void> {
    await Promise.all(this.#closing)
  }

  async end(): Promise<void> {
    this.#closed = true
    for (const name of [...this.#served.keys()]) this.close(name)
    for (const { endpoint } of (await this.#endpoints?.catch(() => [])) ?? []) await endpoint.close()
  }
}

/** Every segment's memory with an endpoint, or, where that refuses one, none. */
async function registerAll(
  endpoint: OneSided,
  segments: readonly SegmentMeta[],
  memories: readonly HostMemory[],
): Promise<RegisteredRegion[]> {
  const results = await Promise.allSettled(segments.map(({ bytes }, index) => endpoint.register(memories[index]!, { bytes })))
  const regions = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  const failed = results.find((result) => result.status === 'rejected')
  if (failed === undefined) return regions
  await Promise.allSettled(regions.map((region) => region.close()))
  throw failed.reason
}

/** A secret of an endpoint: 256 random bits. */
export function newSecret(): string {
  return randomBytes(32).toString('base64url')
}
