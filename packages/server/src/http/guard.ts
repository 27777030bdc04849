import type { Socket } from 'node:net'
import { CkptError, checkSecret } from '@ckpt/contract'
import type { FastifyRequest } from 'fastify'
import { sameSecret } from '@ckpt/utils'
import { isLoopback, namesLoopback } from './loopback.ts'
import type { HttpOptions } from './options.ts'
import { fromOwnUser } from './peer-user.ts'

export const DEFAULT_HOST = '127.0.0.1'
/** Paths that need no token: they only reveal that the process is up; the pages contain no data. */
const OPEN_PATHS = new Set(['/v1/healthz', '/live', '/cluster'])

/** @throws CkptError `INVALID_ARGUMENT` if other machines could use the API without restriction. */
export function checkExposure({ host = DEFAULT_HOST, socketPath, token, root, tls }: HttpOptions): void {
  if (tls !== undefined && socketPath !== undefined) {
    const text = `TLS on the unix socket ${socketPath}: only its user can open it, so give it a port, or no certificate`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'tls' } })
  }
  if (token !== undefined) checkSecret(token, 'token')
  if (socketPath !== undefined || isLoopback(host)) return
  for (const [field, value] of Object.entries({ token, root })) {
    if (value !== undefined) continue
    const text = `${host} can be reached from other machines: listening there needs a ${field}`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field } })
  }
}

/** Returns true for a request that anyone may make. */
export function isOpen(request: FastifyRequest): boolean {
  return OPEN_PATHS.has(request.routeOptions.url ?? '')
}

/**
 * Determines who may call: callers with the token; without one, processes of this process's user and of root. Of web pages only
 * the API's own may call (a page in a browser also reaches the loopback interface, by its own name or by a foreign one that
 * resolves to it).
 *
 * @returns the reason why the request is refused, or undefined.
 */
export async function refusal(
  request: FastifyRequest,
  options: HttpOptions,
): Promise<{ status: 401 | 403; reason: string } | undefined> {
  if (isOpen(request)) return undefined
  const foreign = foreignPage(request)
  if (foreign !== undefined) return { status: 403, reason: foreign }
  if (options.token !== undefined) {
    if (isToken(request.headers.authorization, options.token)) return undefined
    return { status: 401, reason: 'a bearer token is needed' }
  }
  if (options.socketPath !== undefined) return undefined
  if (!namesLoopback(request.headers.host)) return { status: 403, reason: 'Host is not this machine' }
  if (await fromOwnUser(request.raw.socket)) return undefined
  return { status: 403, reason: 'a different user of this machine needs a token' }
}

/**
 * Returns true if the head of an unparsed request shows the right to call, so that it is parsed before those of strangers.
 * {@link refusal} decides if it is answered.
 */
export function showsRight(head: string, socket: Socket, { token, socketPath }: HttpOptions): boolean | Promise<boolean> {
  if (token !== undefined) return isToken(/\nauthorization:(.*)/i.exec(head)?.[1]?.trim(), token)
  return socketPath !== undefined || fromOwnUser(socket)
}

function isToken(authorization: string | undefined, token: string): boolean {
  const given = /^Bearer (.+)$/.exec(authorization ?? '')?.[1]
  return given !== undefined && sameSecret(given, token)
}

/**
 * Returns the reason if the request comes from a foreign page. A page of this API sends `Origin: SCHEME://HOST`, with the host
 * and port that it calls; the scheme may be that of a proxy in front of it. Headers that browsers add themselves are also used.
 */
function foreignPage({ headers }: FastifyRequest): string | undefined {
  const { origin, host } = headers
  if (origin !== undefined && !/^https?:$/.test(schemeOf(origin))) return `Origin ${origin.slice(0, 200)} is not this API's own`
  if (origin !== undefined && origin.replace(/^https?:\/\//, '') !== host) {
    return `Origin ${origin.slice(0, 200)} is not this API's own (Host is ${host?.slice(0, 200)})`
  }
  const site = headers['sec-fetch-site']
  if (site === undefined || site === 'same-origin' || site === 'none') return undefined
  return `the request comes from a page of a different site (Sec-Fetch-Site: ${site.slice(0, 50)})`
}

function schemeOf(url: string): string {
  try {
    return new URL(url).protocol
  } catch {
    return ''
  }
}
