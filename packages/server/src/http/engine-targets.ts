import { realpathSync } from 'node:fs'
import { dirname, isAbsolute } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { isLoopback } from './loopback.ts'
import type { HttpOptions } from './options.ts'
import { isInside } from './paths.ts'
import type { UpdateRequest } from './schemas.ts'

/** Address of an update's engine, which this process calls. */
export type EngineTarget = Pick<UpdateRequest, 'update_url' | 'uds'>

/**
 * Checks that this process may call the engine of a request: otherwise a user of the API could make it post to any service that
 * only this machine can reach.
 *
 * @returns the target with its socket's links resolved.
 * @throws CkptError `INVALID_ARGUMENT` naming the field, and the option that allows it.
 */
export function engineTarget<T extends EngineTarget>(
  body: T,
  options: Pick<HttpOptions, 'engineHosts' | 'engineSockets' | 'socketPath'>,
): T {
  const { update_url: url, uds } = body
  if (url === undefined || url === null) return body
  const { protocol, hostname, host, username, password } = new URL(url)
  if (protocol !== 'http:' && protocol !== 'https:') throw refused('update_url', url, 'is not an http or https URL')
  if (username !== '' || password !== '') throw refused('update_url', url, 'contains a user or a password')
  // With a socket the host is only a name in the request.
  if (uds !== undefined && uds !== null) return { ...body, uds: allowedSocket(uds, options) }
  const allowed = (options.engineHosts ?? []).map((one) => one.toLowerCase())
  if (isLoopback(hostname) || allowed.includes(hostname) || allowed.includes(host)) return body
  throw refused('update_url', url, `is not on this machine, and engineHosts (--engine-host) does not list ${hostname}`)
}

function allowedSocket(uds: string, { engineSockets, socketPath }: Pick<HttpOptions, 'engineSockets' | 'socketPath'>): string {
  const roots = engineSockets ?? (socketPath === undefined ? [] : [dirname(socketPath)])
  if (!isAbsolute(uds) || uds.includes('\0')) throw refused('uds', uds, 'is not an absolute path')
  // Also before any lookup, so that an answer does not reveal what exists elsewhere.
  const listed = roots.some((root) => isInside(root, uds) || isInside(real(root) ?? root, uds))
  const found = listed ? real(uds) : undefined
  if (listed && found === undefined) throw refused('uds', uds, 'does not exist')
  if (found !== undefined && roots.some((root) => isInside(real(root) ?? root, found))) return found
  const where = roots.length === 0 ? 'no directory of sockets is allowed' : `it is not below ${roots.join(', ')}`
  throw refused('uds', uds, `may not be called: ${where} (engineSockets, --engine-sockets)`)
}

function real(path: string): string | undefined {
  try {
    return realpathSync(path)
  } catch {
    return undefined
  }
}

function refused(field: 'update_url' | 'uds', value: string, why: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${field} ${value.slice(0, 300)} ${why}`, { fields: { field } })
}
