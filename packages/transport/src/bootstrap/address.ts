import { CkptError } from '@ckpt/contract'

/** @returns host and port of `host:port`, IPv6 in brackets. @throws CkptError `INVALID_ARGUMENT`. */
export function splitAddress(address: string, field: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(address)
  const port = Number(match?.[3])
  if (match === null || port > 65_535) {
    throw new CkptError('INVALID_ARGUMENT', `"${address}" is not host:port (IPv6 in brackets)`, { fields: { field } })
  }
  return { host: (match[1] ?? match[2])!, port }
}
