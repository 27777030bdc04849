import { setTimeout } from 'node:timers/promises'

import { CkptError, requireSocketDescriptors } from '@ckpt/contract'
import { Context, Router } from 'zeromq'

import type { Link } from '../client/link.ts'
import { coordinatorLost } from '../errors.ts'
import { secretFor, settingsOf, type CoordinatorOptions, type Settings } from '../options.ts'
import { startHeartbeat } from '../timers.ts'
import { endpointsOf, isIpv6 } from '../wire/address.ts'
import { curveClient, curveServer, type CurveServer } from '../wire/curve.ts'
import { FrameSocket, MAX_FRAME_BYTES, type Frames } from '../wire/socket.ts'
import { Coordinator } from './coordinator.ts'
import { evict } from './evict.ts'

/** Routing ids are hexadecimal, so no connection can have this one. */
const LOCAL_PEER = 'local'
/**
 * Maximum messages queued for a peer that does not read; ZeroMQ drops further ones, but the peer's heartbeat will have ended
 * long before.
 */
const SEND_HIGH_WATER_MARK = 1000
/** Time in milliseconds after which a peer that has not shown the run's key is disconnected. */
const HANDSHAKE_MS = 3000
/**
 * Time in milliseconds for which a taken address is retried, and the interval: ZeroMQ releases the address of a closed
 * coordinator with a delay, and so does the system for a killed one.
 */
const BIND_MS = 2000
const BIND_AGAIN_MS = 20
/** Maximum connections waiting to be accepted: those of a large cluster, or of a flood that honest ones arrive in. */
const BACKLOG = 4096

/** A running coordinator. */
export interface CoordinatorHandle {
  /** Address to which ranks connect: `tcp://host:port`. */
  readonly address: string
  /** Dismisses every rank and stops listening. */
  close(): Promise<void>
}

/**
 * A coordinator with its drivers: a socket, unless all ranks are in this process, a clock, and the link of a rank in this
 * process.
 */
export class CoordinatorHost implements CoordinatorHandle {
  address = 'in-process'
  readonly #coordinator: Coordinator
  readonly #token: string
  readonly #run: string
  readonly #onFault: (error: CkptError) => void
  readonly #stopHeartbeat: () => void
  #router: Router | undefined
  #socket: FrameSocket | undefined
  #embedded = false
  #closed = false
  #deliver: ((frames: Frames) => void) | undefined

  constructor(settings: Settings) {
    this.#onFault = settings.onFault
    this.#token = settings.token
    this.#run = settings.run
    const send = (peer: string, frames: Frames) => {
      if (peer === LOCAL_PEER) queueMicrotask(() => this.#deliver?.(frames))
      else this.#socket?.send([Buffer.from(peer, 'hex'), ...frames])
    }
    this.#coordinator = new Coordinator(settings, send, (peer) => void this.#evict(peer))
    this.#stopHeartbeat = startHeartbeat(settings.heartbeatMs, (stalledMs) => this.#coordinator.tick(stalledMs))
  }

  /**
   * Listens on the first free address. @throws CkptError `INVALID_ARGUMENT` if it can listen on none, with the reason for each.
   */
  async listen(addresses: readonly string[]): Promise<void> {
    const curve = await curveServer(this.#token, this.#run)
    const places = await Promise.all(
      addresses.map(async (address) => {
        const endpoints = await endpointsOf(address)
        return { address, endpoints, router: newRouter(endpoints.some(isIpv6), curve) }
      }),
    )
    const deadline = performance.now() + BIND_MS
    try {
      for (;;) {
        const failures: { address: string; error: NodeJS.ErrnoException }[] = []
        for (const { address, endpoints, router } of places) {
          const error = await bindAny(router, endpoints)
          if (error === undefined) return this.#serve(router, address)
          failures.push({ address, error })
        }
        const later = failures.some(({ error }) => error.code === 'EADDRINUSE')
        if (!later || performance.now() > deadline) throw cannotListen(failures)
        await setTimeout(BIND_AGAIN_MS)
      }
    } finally {
      for (const { router } of places) if (router !== this.#router) router.close()
    }
  }

  #serve(router: Router, address: string): void {
    this.#router = router
    this.address = router.lastEndpoint ?? address
    this.#socket = new FrameSocket(
      router,
      ([peer, ...frames]) => this.#coordinator.receive(peer!.toString('hex'), frames),
      (error) => this.#onFault(CkptError.from(error, 'NATIVE_FAILURE', `the coordinator's socket at ${this.address} failed`)),
    )
  }

  /** Creates a link of a rank in this process: the same messages, by call instead of by socket. */
  linkLocal(onMessage: (frames: Frames) => void): Link {
    this.#deliver = onMessage
    this.#embedded = true
    return {
      send: (frames) => queueMicrotask(() => this.#coordinator.receive(LOCAL_PEER, frames)),
      close: async () => {
        // Earlier messages are handled first.
        await new Promise<void>((resolve) => queueMicrotask(resolve))
        this.#deliver = undefined
        await this.close()
      },
    }
  }

  /** A silent member may be sending a message that never ends, which the socket keeps as long as its connection lasts. */
  async #evict(peer: string): Promise<void> {
    if (peer === LOCAL_PEER || this.#router === undefined) return
    try {
      await evict(this.address, peer, await curveClient(this.#token, this.#run))
    } catch (error) {
      if (!this.#closed) this.#onFault(CkptError.from(error, 'NATIVE_FAILURE'))
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#stopHeartbeat()
    this.#coordinator.close(coordinatorLost(this.address, this.#embedded, 'has closed'))
    await this.#socket?.close()
  }
}

function newRouter(ipv6: boolean, curve: CurveServer | undefined): Router {
  requireSocketDescriptors('the coordinator')
  return new Router({
    ipv6,
    // A rank that reconnects takes over its old connection; routing ids are random, so nobody else can.
    handover: true,
    // A separate thread, so that strangers who connect here delay no other socket of this process.
    context: new Context({ blocky: false }),
    backlog: BACKLOG,
    handshakeInterval: HANDSHAKE_MS,
    sendHighWaterMark: SEND_HIGH_WATER_MARK,
    maxMessageSize: MAX_FRAME_BYTES,
    ...curve,
  })
}

/**
 * Binds to all endpoints of one address that this machine has: a name may have addresses of both kinds. If a port is taken on
 * one of them, the port is not used, even if it is free on another. Returns the reason if there is none.
 */
async function bindAny(router: Router, endpoints: readonly string[]): Promise<NodeJS.ErrnoException | undefined> {
  let bound = false
  let failure: NodeJS.ErrnoException | undefined
  for (const endpoint of endpoints) {
    try {
      await router.bind(endpoint)
      bound = true
      // A port that the system chose may be taken on the next address.
      if (endpoint.endsWith(':*')) return undefined
    } catch (error) {
      failure ??= error as NodeJS.ErrnoException
      if (failure.code === 'EADDRINUSE' && !bound) return failure
    }
  }
  return bound ? undefined : failure
}

function cannotListen(failures: readonly { address: string; error: NodeJS.ErrnoException }[]): CkptError {
  const [first] = failures
  const reasons = failures.map(({ address, error }) => `${address}: ${error.message}`).join('; ')
  const taken = failures.some(({ error }) => error.code === 'EADDRINUSE')
  const remedy = taken ? '; set MASTER_PORT, or `rendezvous`, to a port that nothing else uses' : ''
  return new CkptError('INVALID_ARGUMENT', `the coordinator cannot listen on ${reasons}${remedy}`, {
    fields: { field: 'address', ...(first && { peer: first.address }) },
    cause: first?.error,
  })
}

/**
 * Starts a standalone coordinator, for worlds in which rank 0 does not run it (`standalone` in the join options).
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option, also if it cannot listen on the address, or if the network could
 * reach it
 *   without a secret.
 */
export async function startCoordinator(options: CoordinatorOptions): Promise<CoordinatorHandle> {
  const token = secretFor(options, options.address)
  const host = new CoordinatorHost({ ...settingsOf(options), token })
  try {
    await host.listen([options.address])
  } catch (error) {
    await host.close()
    throw error
  }
  return host
}
