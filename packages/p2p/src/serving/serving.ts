import { randomBytes } from 'node:crypto'
import {
  CkptError,
  type AccessPoint,
  type HostMemory,
  type OneSided,
  type RegisteredRegion,
  type SegmentMeta,
} from '@ckpt/contract'

/** An endpoint of this rank with its secret. */
export interface ServedEndpoint {
  readonly endpoint: OneSided
  readonly secret: string
}

/** One registration of a checkpoint that is being served. */
interface Served {
  /** Object that distinguishes this registration from a later one of the same name. */
  readonly registration: object
  readonly regions: readonly RegisteredRegion[]
  readonly points: readonly AccessPoint[]
}

/** Serves the segments of this rank's checkpoints through its one-sided endpoints, each registration under its own keys. */
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

  /** `make` is called when an endpoint is first needed; `note` receives the reason if an endpoint cannot serve something. */
  constructor(make: () => Promise<readonly ServedEndpoint[]>, note: (problem: CkptError) => void) {
    this.#make = make
    this.#note = note
  }

  /** This rank's endpoints, created at the first call. */
  endpoints(): Promise<readonly ServedEndpoint[]> {
    this.#endpoints ??= this.#make().then((made) => (this.#made = made))
    return this.#endpoints
  }

  /** Bytes that others have read from this rank, as far as its endpoints can count them. */
  get servedBytes(): number {
    return this.#made.reduce((sum, { endpoint }) => sum + (endpoint.servedBytes ?? 0), 0)
  }

  /** Makes a checkpoint's segments readable, once per registration. */
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
        // One access point is enough: TCP remains if a device may not lock that much memory.
        failure ??= error
        this.#note(CkptError.from(error, 'NATIVE_FAILURE'))
      }
    }
    if (points.length === 0 && endpoints.length > 0) throw CkptError.from(failure, 'NATIVE_FAILURE')
    this.#served.set(name, { registration, regions, points })
    // It was unregistered, or closed, while its regions were being created.
    if (this.#closed) this.close(name)
    return points
  }

  /** Closes a checkpoint to readers: its keys are refused from now on, and reads in flight are marked as refused. */
  close(name: string): void {
    const served = this.#served.get(name)
    this.#served.delete(name)
    for (const region of served?.regions ?? []) {
      const closed: Promise<void> = region
        .close()
        .catch(() => undefined) // the end of the process closes its endpoint
        .finally(() => this.#closing.delete(closed))
      this.#closing.add(closed)
    }
  }

  /** Resolves when no peer reads closed checkpoints any more, so that their memory may be reused. */
  async settled(): Promise<void> {
    await Promise.all(this.#closing)
  }

  async end(): Promise<void> {
    this.#closed = true
    for (const name of [...this.#served.keys()]) this.close(name)
    for (const { endpoint } of (await this.#endpoints?.catch(() => [])) ?? []) await endpoint.close()
  }
}

/** Registers every segment's memory with an endpoint or, if the endpoint refuses one, none. */
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

/** Returns a secret for an endpoint: 256 random bits. */
export function newSecret(): string {
  return randomBytes(32).toString('base64url')
}
