import type { Socket } from 'node:net'
import { CkptError, checkSecret } from '@ckpt/contract'
import type { FastifyRequest } from 'fastify'
import { sameSecret } from '@ckpt/utils'
import { isLoopback, namesLoopback } from './loopback.ts'
import type { HttpOptions } from './options.ts'
import { fromOwnUser } from './peer-user.ts'

export const DEFAULT_HOST = '127.0.0.1'
/** Paths that need no token: they tell nothing but that the process is up; the page at /live has no data in it. */
const OPEN_PATHS = new Set(['/v1/healthz', '/live'])

/** @throws CkptError `INVALID_ARGUMENT` where other machines could do what they like. */
export function checkExposure({ host = DEFAULT_HOST, socketPath, token, root }: HttpOptions): void {
  if (token !== undefined) checkSecret(token, 'token')
  if (socketPath !== undefined || isLoopback(host)) return
  for (const [field, value] of Object.entries({ token, root })) {
    if (value !== undefined) continue
    const text = `${host} can be reached from other machines: listening there needs a ${field}`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field } })
  }
}

/** True for a request that anybody may make. */
export function isOpen(request: FastifyRequest): boolean {
  return OPEN_PATHS.has(request.routeOptions.url ?? '')
}

/**
 * Who may call: whoever has the token; without one, processes of this process's user and of root. No web page but the API's own may call
 * (a page that a browser shows reaches the loopback interface too, by its own name or by a foreign one that resolves to it).
 *
 * @returns why the request is refused, or undefined.
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
  return { status: 403, reason: 'another user of this machine needs a token' }
}

/**
 * True if the head of a request that is not parsed yet shows the right to call, so that it is parsed before those of strangers.
 * {@link refusal} decides whether it is answered.
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
 * Why the request is that of a foreign page. A page of this API says `Origin: SCHEME://HOST`, with the host and port that it calls; the scheme
 * may be that of a proxy before it. What browsers say of it by themselves is taken too.
 */
function foreignPage({ headers }: FastifyRequest): string | undefined {
  const { origin, host } = headers
  if (origin !== undefined && !/^https?:$/.test(schemeOf(origin))) return `Origin ${origin.slice(0, 200)} is not this API's own`
  if (origin !== undefined && origin.replace(/^https?:\/\//, '') !== host) {
    return `Origin ${origin.slice(0, 200)} is not this API's own (Host is ${host?.slice(0, 200)})`
  }
  const site = headers['sec-fetch-site']
  if (site === undefined || site === 'same-origin' || site === 'none') return undefined
  return `the request is that of a different site's page (Sec-Fetch-Site: ${site.slice(0, 50)})`
}

function schemeOf(url: string): string {
  try {
    return new URL(url).protocol
  } catch {
    return ''
  }
}
