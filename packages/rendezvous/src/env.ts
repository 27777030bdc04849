import { checkSecret, readSecretFile } from '@ckpt/contract'

import { invalid } from './errors.ts'
import type { JoinOptions } from './options.ts'

type Environment = Readonly<Record<string, string | undefined>>

const DEFAULT_MASTER_ADDR = '127.0.0.1'
const DEFAULT_MASTER_PORT = 29_500

/**
 * How to join, by the variables that launchers of distributed jobs set: RANK, WORLD_SIZE, MASTER_ADDR (default 127.0.0.1),
 * MASTER_PORT (default 29500); and CKPT_TOKEN, or CKPT_TOKEN_FILE, a file that only its owner, this user or root, may read; CKPT_INSECURE=1
 * does without; CKPT_RUN_ID is the run's name. Without RANK and WORLD_SIZE the result is a world of one rank.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the variable that is present but broken, or that is missing beside others.
 */
export function rendezvousOptionsFromEnv(env: Environment = process.env): JoinOptions {
  const rank = integer(env, 'RANK', 0, Number.MAX_SAFE_INTEGER)
  const worldSize = integer(env, 'WORLD_SIZE', 1, Number.MAX_SAFE_INTEGER) ?? (rank ? undefined : 1)
  if (worldSize === undefined) throw invalid('WORLD_SIZE', `missing beside RANK=${rank}`)
  if (rank === undefined && worldSize > 1) throw invalid('RANK', `missing beside WORLD_SIZE=${worldSize}`)
  if (rank !== undefined && rank >= worldSize) throw invalid('RANK', `${rank} is not below WORLD_SIZE=${worldSize}`)
  const host = env['MASTER_ADDR'] ?? DEFAULT_MASTER_ADDR
  if (!/^[\w.:%-]+$/.test(host)) throw invalid('MASTER_ADDR', `${JSON.stringify(host)} is not a host`)
  const port = integer(env, 'MASTER_PORT', 1, 65_535) ?? DEFAULT_MASTER_PORT
  const token = readToken(env)
  const run = env['CKPT_RUN_ID']
  const insecure = env['CKPT_INSECURE']
  if (insecure !== undefined && !/^[01]$/.test(insecure))
    throw invalid('CKPT_INSECURE', `${JSON.stringify(insecure)} is not 0 or 1`)
  return {
    rank: rank ?? 0,
    worldSize,
    address: `tcp://${host.includes(':') ? `[${host}]` : host}:${port}`,
    ...(token !== undefined && { token }),
    ...(insecure === '1' && { insecure: true }),
    ...(run !== undefined && run !== '' && { run }),
  }
}

function integer(env: Environment, name: string, min: number, max: number): number | undefined {
  const text = env[name]
  if (text === undefined) return undefined
  const value = /^\d+$/.test(text) ? Number(text) : NaN
  if (!(value >= min && value <= max)) {
    throw invalid(
      name,
      `${JSON.stringify(text)} is not a whole number ${max < 1e6 ? `from ${min} to ${max}` : `of at least ${min}`}`,
    )
  }
  return value
}

function readToken(env: Environment): string | undefined {
  const token = env['CKPT_TOKEN']
  const file = env['CKPT_TOKEN_FILE']
  if (token !== undefined && file !== undefined) throw invalid('CKPT_TOKEN_FILE', 'set beside CKPT_TOKEN; set one of them')
  if (file !== undefined) return readSecretFile(file, 'CKPT_TOKEN_FILE')
  return token === undefined ? undefined : checkSecret(token, 'CKPT_TOKEN')
}
