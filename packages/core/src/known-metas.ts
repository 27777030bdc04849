import { hostname } from 'node:os'
import { CkptError, type CallOptions, type Manifest, type RankAccess, type Rendezvous } from '@ckpt/contract'
import type { CheckpointStore } from '@ckpt/memory'
import { encodeRankMetas, fetchPublished, type FetchOptions } from '@ckpt/rendezvous'
import { gatherManifest } from './gather.ts'
import { tensorCount } from './manifest.ts'
import { decodeMetas, encodeMetas, type Metas } from './metas-file.ts'
import { EMPTY_TABLE } from './empty-checkpoint.ts'
import { mergeMetas, withoutRanks } from './merge-metas.ts'
import type { Serving } from '@ckpt/p2p'

type Encoded = ReturnType<typeof encodeRankMetas>

export interface KnownMetasOptions {
  readonly rendezvous: Rendezvous
  readonly store: CheckpointStore
  readonly serving: Serving
  readonly deviceUuid: string
}

/** What a rank tells the others when it gathers. */
interface Told extends RankAccess {
  /** Digest of the manifest that it loaded from another run, if that is what it knows of this name. */
  readonly loaded: string | null
}

/** Metas that a rank knows: gathered in its own world, or loaded from a different one. */
export class KnownMetas {
  readonly #options: KnownMetasOptions
  readonly #manifests = new Map<string, Manifest>()
  /** Access to the ranks of each manifest. */
  readonly #access = new Map<string, readonly RankAccess[]>()
  /** Loaded manifests: from a different world than this rank's. */
  readonly #foreign = new Set<string>()
  /** Loaded metas; this world's own ranks are added to them once they have kept the checkpoint. */
  readonly #origins = new Map<string, Metas>()
  /** Checkpoints whose metas this rank has published at the coordinator. */
  readonly #published = new Set<string>()
  readonly #encoded = new Map<string, { held: object; digests: boolean; blob: Encoded }>()

  constructor(options: KnownMetasOptions) {
    this.#options = options
  }

  /**
   * Gathers from all ranks; all of them call it. What all of them loaded from another run stays, unless one of them has registered
   * the checkpoint since.
   */
  async gather(name: string, digests: boolean, wait: CallOptions & { readonly timeoutMs: number }): Promise<Manifest> {
    const { rendezvous, store } = this.#options
    const known = store.has(name)
    if (known && digests) await store.computeDigests(name)
    const blob = this.encode(name, digests)
    const points = known ? await this.#serve(name) : []
    const loaded = this.isForeign(name) ? this.get(name) : undefined
    const own: Told = { rank: rendezvous.rank, points, loaded: loaded?.digest ?? null }
    const [manifest, told] = await Promise.all([
      gatherManifest(rendezvous, name, blob, this.#manifests.get(name), wait),
      rendezvous.allGather(`access/${name}`, own, wait),
    ])
    if (loaded && tensorCount(manifest) === 0) return told.every((one) => one.loaded === loaded.digest) ? loaded : manifest
    this.#access.set(
      name,
      told.map(({ rank, points }) => ({ rank, points })),
    )
    this.#manifests.set(name, manifest)
    this.#foreign.delete(name)
    return manifest
  }

  /** Returns this rank's own part in its encoded form; it is kept as long as the registration exists. */
  encode(name: string, digests: boolean): Encoded {
    const { rendezvous, store, deviceUuid } = this.#options
    const held: ReturnType<CheckpointStore['metas']> = store.has(name)
      ? store.metas(name)
      : { segments: [], tensors: EMPTY_TABLE }
    const cached = this.#encoded.get(name)
    if (cached?.held === held.tensors && cached.digests === digests) return cached.blob
    const { digests: computed, ...columns } = held.tensors
    const tensors = digests && computed ? { ...columns, digests: computed } : columns
    const { segments } = held
    const blob = encodeRankMetas({ rank: rendezvous.rank, host: hostname(), deviceUuid, segments, tensors })
    this.#encoded.set(name, { held: held.tensors, digests, blob })
    return blob
  }

  /** Returns the manifest that was last gathered or loaded, if any. */
  find(name: string): Manifest | undefined {
    return this.#manifests.get(name)
  }

  /** @throws CkptError `CHECKPOINT_UNKNOWN` if there is none. */
  get(name: string): Manifest {
    const manifest = this.#manifests.get(name)
    if (manifest) return manifest
    throw new CkptError('CHECKPOINT_UNKNOWN', `no metas of ${name}: call gatherMetas or loadMetas first`, {
      fields: { checkpoint: name },
    })
  }

  /** Access to its ranks. */
  access(name: string): readonly RankAccess[] {
    return this.#access.get(name) ?? []
  }

  /** Returns true if it was loaded from a different world. */
  isForeign(name: string): boolean {
    return this.#foreign.has(name)
  }

  /** Returns everything that a different world needs to pull the checkpoint. @throws CkptError `CHECKPOINT_UNKNOWN`. */
  whole(name: string): Metas {
    const known = { manifest: this.get(name), access: this.access(name) }
    const origin = this.#origins.get(name)
    return origin && !this.isForeign(name) ? mergeMetas(origin, known) : known
  }

  /**
   * Records that this rank kept the checkpoint that it pulled. `lost`: ranks that it could not read from, which are left out
   * from now on.
   */
  keep(name: string, lost: ReadonlySet<number>): void {
    const origin = this.#origins.get(name)
    if (origin) this.#origins.set(name, withoutRanks(origin, lost))
  }

  /** Adds metas from a different world. */
  adopt({ manifest, access }: Metas): Manifest {
    this.#manifests.set(manifest.checkpoint, manifest)
    this.#access.set(manifest.checkpoint, access)
    this.#foreign.add(manifest.checkpoint)
    this.#origins.set(manifest.checkpoint, { manifest, access })
    return manifest
  }

  /** Publishes them at the coordinator. */
  publish(name: string): void {
    this.#published.add(name)
    this.#options.rendezvous.publish(publishedKey(name), Buffer.from(encodeMetas(this.whole(name))))
  }

  /** Fetches the metas published at a different world's coordinator. @throws CkptError as for `ParameterServer.fetchMetas`. */
  async fetch(name: string, from: FetchOptions): Promise<Manifest> {
    const payload = await fetchPublished(publishedKey(name), from)
    if (payload === undefined) {
      throw new CkptError('CHECKPOINT_UNKNOWN', `no metas of ${name} were published at ${from.address}`, {
        fields: { checkpoint: name, peer: from.address },
      })
    }
    if (payload.length === 0) {
      throw new CkptError(
        'METAS_STALE',
        `the metas of ${name} at ${from.address} were withdrawn: the checkpoint was unregistered there`,
        {
          fields: { checkpoint: name, peer: from.address },
        },
      )
    }
    return this.adopt(decodeMetas(Buffer.from(payload).toString(), `metas of ${from.address}`, true))
  }

  /** Drops the manifest after the checkpoint was registered again. */
  renew(name: string): void {
    this.#manifests.delete(name)
    this.#origins.delete(name)
    this.encode(name, false) // now, so that gathering only sends
  }

  forget(name: string): void {
    this.#manifests.delete(name)
    this.#origins.delete(name)
    this.#encoded.delete(name)
    if (!this.#published.delete(name)) return
    try {
      // Requests for removed metas fail with METAS_STALE.
      this.#options.rendezvous.publish(publishedKey(name), new Uint8Array(0))
    } catch {
      // No longer a member: the coordinator has died, or has forgotten this rank's metas.
    }
  }

  /** Makes this rank's part readable for other ranks. */
  async #serve(name: string): Promise<RankAccess['points']> {
    const { store, serving } = this.#options
    using lease = store.lease(name)
    const { segments } = store.metas(name)
    return await serving.serve(name, segments, segments, lease.segments)
  }
}

function publishedKey(name: string): string {
  return `published-metas/${name}`
}
