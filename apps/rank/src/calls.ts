import { CkptError, type Device, type EngineAdapter, type Manifest } from '@ckpt/contract'
import { createCudaDevice, tensorCount, type ParameterServer } from '@ckpt/core'
import { createParameterServer } from '@ckpt/server'
import { probeCuda } from '@ckpt/transport'
import type { Logger } from 'pino'
import { engineOf, strategyOf } from './choices.ts'
import { defined } from './defined.ts'
import { offeredTensors } from './offered-tensors.ts'
import type { Ask } from './messages.ts'
import type { Arguments, EngineDescription, Verb } from './schemas.ts'

/** What a call may use. */
export interface CallContext {
  /** Aborted when the client cancels the call, or ends. */
  readonly signal: AbortSignal
  readonly onProgress?: (done: number, total: number) => void
  /** Asks the client for something. Resolves when it is done, and rejects when it cannot be. */
  readonly ask: (ask: Ask) => Promise<void>
}

type Handlers = { readonly [V in Verb]: (options: Arguments<V>, context: CallContext) => Promise<unknown> }

/** One rank and the calls on it. */
export class Rank {
  readonly #log: Logger
  #server: ParameterServer | undefined
  /** Set if the rank uses a GPU; the parameter server makes its own device otherwise. */
  #device: Device | undefined

  constructor(log: Logger) {
    this.#log = log
  }

  /** The calls by verb; each resolves to data that MessagePack can hold. */
  readonly handlers: Handlers = {
    create: async ({ device, ...options }, { signal }) => {
      if (this.#server !== undefined) throw new CkptError('INVALID_STATE', 'the rank exists already')
      this.#device = await openDevice(device)
      this.#server = await createParameterServer(
        { ...defined(options), logger: this.#log, ...(this.#device && { device: this.#device }) },
        { signal },
      )
      const { rank, worldSize } = this.#server
      return { rank, worldSize, device: this.#server.device.kind, deviceUuid: this.#server.device.uuid }
    },
    register: async ({ name, source, timeoutMs, ...options }, { signal, onProgress, ask }) => {
      const timed = timeoutMs === undefined ? undefined : deadline(timeoutMs, `the registration of ${name}`)
      await this.#rank().registerCheckpoint(
        name,
        'offer' in source ? offeredTensors(source.offer, ask) : 'files' in source ? defined(source) : source,
        {
          ...defined(options),
          signal: timed === undefined ? signal : AbortSignal.any([signal, timed]),
          ...(onProgress && { onProgress }),
        },
      )
    },
    unregister: ({ name, ...options }) => this.#rank().unregisterCheckpoint(name, defined(options)),
    releasePool: (options) => this.#rank().releasePool(defined(options)),
    gatherMetas: async ({ name, engine, ...options }, { signal, ask }) =>
      summary(
        await this.#rank().gatherMetas(name, {
          ...defined(options),
          signal,
          ...(engine && { engine: this.#engine(engine, ask) }),
        }),
      ),
    prepare: ({ name, engine, strategy, ...options }, { signal, ask }) => {
      const chosen = strategyOf(strategy)
      return this.#rank().prepare(name, {
        ...defined(options),
        engine: this.#engine(engine, ask),
        signal,
        ...(chosen && { strategy: chosen }),
      })
    },
    getMetas: ({ name }) => Promise.resolve(summary(this.#rank().getMetas(name))),
    saveMetas: ({ name, path }) => this.#rank().saveMetas(name, path),
    loadMetas: async ({ path }) => summary(await this.#rank().loadMetas(path)),
    publishMetas: ({ name }) => Promise.resolve(this.#rank().publishMetas(name)),
    fetchMetas: async ({ name, ...from }, { signal }) =>
      summary(await this.#rank().fetchMetas(name, { ...defined(from), signal })),
    update: async ({ name, engine, strategy, ...options }, { signal, onProgress, ask }) => {
      const chosen = strategyOf(strategy)
      const { spans: _, ...report } = await this.#rank().update(name, {
        ...defined(options),
        engine: this.#engine(engine, ask),
        signal,
        ...(chosen && { strategy: chosen }),
        ...(onProgress && { onProgress }),
      })
      return report
    },
    engineStates: () => Promise.resolve(this.#rank().engineStates()),
    health: () => {
      const { rank, worldSize, state, reasons, dirty } = this.#rank().health()
      return Promise.resolve({ rank, worldSize, state, reasons, dirty })
    },
    close: () => this.close(),
  }

  /** Leaves the other ranks and releases everything; calling it again does nothing. */
  async close(): Promise<void> {
    const server = this.#server
    const device = this.#device
    this.#server = undefined
    this.#device = undefined
    await server?.close()
    await device?.close()
  }

  #engine(description: EngineDescription, ask: CallContext['ask']): EngineAdapter {
    return engineOf(description, ask, (event) =>
      this.#log[event.kind === 'unsupported' || event.kind === 'left-paused' ? 'warn' : 'info'](event, 'vllm'),
    )
  }

  #rank(): ParameterServer {
    if (this.#server !== undefined) return this.#server
    throw new CkptError('INVALID_STATE', 'the rank is closed, or was not created')
  }
}

/**
 * Opens the device that a client asks for: `cpu`, `cuda` (the GPU with the number LOCAL_RANK), `cuda:N`, or `auto`, which is
 * `cuda` if there is a GPU. Undefined for the host device.
 */
async function openDevice(wanted: string): Promise<Device | undefined> {
  const index = /^cuda(?::(\d+))?$/.exec(wanted)
  if (index !== null) return createCudaDevice({ index: Number(index[1] ?? localRank()) })
  if (wanted === 'auto') {
    const { driver, devices } = await probeCuda().catch(() => ({ driver: { available: false }, devices: [] }))
    return driver.available && devices.length > 0 ? createCudaDevice({ index: localRank() }) : undefined
  }
  if (wanted === 'cpu') return undefined
  throw new CkptError('INVALID_ARGUMENT', `device ${JSON.stringify(wanted)} is not auto, cpu, cuda or cuda:N`, {
    fields: { field: 'device' },
  })
}

function localRank(): number {
  return Number(process.env['LOCAL_RANK'] ?? 0)
}

function deadline(timeoutMs: number, what: string): AbortSignal {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(new CkptError('TIMEOUT', `waited ${timeoutMs} ms for ${what}`)), timeoutMs)
  timer.unref()
  return controller.signal
}

/** What a client learns of a manifest. */
function summary(manifest: Manifest): { tensors: number; bytes: number; ranks: number; digest: string } {
  const bytes = manifest.ranks.reduce((sum, rank) => sum + rank.tensors.bytes.reduce((a, b) => a + b, 0), 0)
  return { tensors: tensorCount(manifest), bytes, ranks: manifest.ranks.length, digest: manifest.digest }
}
