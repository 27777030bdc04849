import { createHash, timingSafeEqual } from 'node:crypto'
import { isIP } from 'node:net'
import { CkptError } from '@ckpt/contract'
import type { FastifyRequest } from 'fastify'
import type { HttpOptions } from './options.ts'
import { fromOwnUser } from './peer-user.ts'

export const DEFAULT_HOST = '127.0.0.1'
/** Paths that need no token: they tell nothing but that the process is up; the page at /live has no data in it. */
const OPEN_PATHS = new Set(['/v1/healthz', '/live'])

/** Whether `host` names this machine's loopback interface and nothing else. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, '$1').toLowerCase()
  return bare === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'))
}

/** @throws CkptError `INVALID_ARGUMENT` where other machines could do what they like. */
export function checkExposure({ host = DEFAULT_HOST, socketPath, token, root }: HttpOptions): void {
  if (token !== undefined && token.length < 16) {
    throw new CkptError('INVALID_ARGUMENT', 'a token of fewer than 16 characters can be guessed', {
      fields: { field: 'token' },
    })
  }
  if (socketPath !== undefined || isLoopback(host)) return
  for (const [field, value] of Object.entries({ token, root })) {
    if (value !== undefined) continue
    const text = `${host} can be reached from other machines: listening there needs a ${field}`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field } })
  }
}

/**
 * Who may call: whoever has the token; without one, processes of this process's user and of root, but no web page that their browser
 * shows (a page reaches the loopback interface too, by its own name or by a foreign one that resolves to it).
 *
 * @returns why the request is refused, or undefined.
 */
export async function refusal(
  request: FastifyRequest,
  options: HttpOptions,
): Promise<{ status: 401 | 403; reason: string } | undefined> {
  if (OPEN_PATHS.has(request.routeOptions.url ?? '')) return undefined
  if (options.token !== undefined) {
    const given = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1]
    if (given !== undefined && sameSecret(given, options.token)) return undefined
    return { status: 401, reason: 'a bearer token is needed' }
  }
  if (options.socketPath !== undefined) return undefined
  for (const [name, text] of [
    ['Host', `http://${request.headers.host ?? ''}`],
    ['Origin', request.headers.origin],
  ] as const) {
    if (text !== undefined && !isLoopback(hostOf(text))) return { status: 403, reason: `${name} is not this machine` }
  }
  if (await fromOwnUser(request.raw.socket)) return undefined
  return { status: 403, reason: 'another user of this machine needs a token' }
}

function hostOf(url: string): string {
  try {
    return new URL(url).hostname
  } catch {
    return ''
  }
}

function sameSecret(given: string, expected: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(expected))
}
