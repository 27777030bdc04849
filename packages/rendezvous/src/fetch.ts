import { randomBytes } from 'node:crypto'

import { CkptError, type CallOptions } from '@ckpt/contract'

import { findCoordinator } from './client/find-coordinator.ts'
import { connectLink, type Link } from './client/link.ts'
import { checkTimeout, DEFAULT_TIMEOUT_MS, secretFor } from './options.ts'
import { startDeadline } from './timers.ts'
import { isLoopback } from './wire/address.ts'
import { curveClient } from './wire/curve.ts'
import { pack, PROTOCOL, readCoordinatorMessage, type RankMessage } from './wire/messages.ts'
import type { Frames } from './wire/socket.ts'

/** Options for fetching. */
export interface FetchOptions extends CallOptions {
  /** `tcp://host:port` of the coordinator. */
  readonly address: string
  /** Secret of the run (default: that of a rank which joins at this address; none at a network address). */
  readonly token?: string
  /** Name of the coordinator's run, if it has one. */
  readonly run?: string
  /** True if the coordinator runs without a secret (default false; relevant on the loopback interface). */
  readonly insecure?: boolean
}

/**
 * Returns what a rank has published under `key`, without joining; undefined if no rank has. The coordinator of a world of one
 * rank listens only if it is `standalone`.
 *
 * @throws CkptError `RENDEZVOUS_REJECTED` for a wrong token, `RANK_MISSING` if the coordinator does not answer in time,
 * `INVALID_ARGUMENT` naming the option, `ABORTED` by the signal.
 */
export async function fetchPublished(key: string, options: FetchOptions): Promise<Uint8Array | undefined> {
  const { address, insecure = false, timeoutMs = DEFAULT_TIMEOUT_MS, signal } = options
  checkTimeout(timeoutMs)
  const token = options.token ?? secretFor({ insecure: insecure || !isLoopback(address) }, address)
  const peer = `the coordinator at ${address}`
  const curve = await curveClient(token, options.run)
  const began = performance.now()
  const endpoint = await findCoordinator([address], curve, { timeoutMs, signal, rank: 0, onWaiting: undefined })
  const leftMs = Math.max(1, timeoutMs - (performance.now() - began))
  let link: Link | undefined
  let settle = (): void => undefined
  let answered = false
  try {
    return await new Promise<Uint8Array | undefined>((resolve, reject) => {
      const receive = (frames: Frames): void => {
        try {
          const message = readCoordinatorMessage(frames.slice(0, 1), peer)
          answered = true
          if (message.type === 'dismissed') reject(CkptError.deserialize(message.error))
          else if (message.type === 'published' && message.key === key) resolve(message.found ? frames[1] : undefined)
        } catch (error) {
          reject(CkptError.from(error, 'RENDEZVOUS_PROTOCOL'))
        }
      }
      link = connectLink(endpoint, randomBytes(16).toString('hex'), curve, receive, reject)
      const stop = startDeadline(leftMs, () => {
        reject(new CkptError('RANK_MISSING', `no answer from ${peer} within ${timeoutMs} ms`, { fields: { peer } }))
      })
      const cancel = (): void => reject(CkptError.from(signal?.reason, 'ABORTED', `fetching ${key} was cancelled`))
      settle = () => {
        stop()
        signal?.removeEventListener('abort', cancel)
      }
      if (signal?.aborted) return cancel()
      signal?.addEventListener('abort', cancel, { once: true })
      link.send([pack({ type: 'fetch', protocol: PROTOCOL, token, key } satisfies RankMessage)])
    })
  } finally {
    settle()
    await link?.close(!answered)
  }
}
