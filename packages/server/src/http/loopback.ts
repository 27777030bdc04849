import { isIP } from 'node:net'

/** Returns true if `host` names this machine's loopback interface and nothing else. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, '$1').toLowerCase()
  return bare === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'))
}

/** Returns true if a request's `Host` names the loopback interface, with or without a port. */
export function namesLoopback(host: string | undefined): boolean {
  const name = /^(\[[\da-f:]+\]|[\w.-]+)(?::\d+)?$/i.exec(host ?? '')?.[1]
  return name !== undefined && isLoopback(name)
}
