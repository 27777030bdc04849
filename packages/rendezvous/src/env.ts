import { CkptError, checkSecret, readSecretFile, serviceLink, type Environment } from '@ckpt/contract'

import { invalid } from './errors.ts'
import type { JoinOptions } from './options.ts'
import { launchedBy, type Launched } from './launchers.ts'
import { meetingOf, torchrunMeeting } from './meeting.ts'

const DEFAULT_MASTER_ADDR = '127.0.0.1'
const DEFAULT_MASTER_PORT = 29_500

/** Options that are given explicitly: their variables are ignored. */
export type GivenOptions = Partial<Pick<JoinOptions, 'rank' | 'worldSize' | 'address' | 'token' | 'insecure'>>

/**
 * Returns the join options from the variables that launchers of distributed jobs set: RANK, WORLD_SIZE, MASTER_ADDR (default
 * 127.0.0.1), MASTER_PORT (default 29500); CKPT_TOKEN, or CKPT_TOKEN_FILE, a file that only its owner, this user or root, may
 * read; CKPT_INSECURE=1 to run without a secret; CKPT_RUN_ID, the run's name. Without RANK and WORLD_SIZE the result is a world
 * of one rank. Where a launcher sets variables of its own instead (mpirun, srun, a LeaderWorkerSet, an indexed Job of Kubernetes),
 * these supply what is missing. If torchrun keeps MASTER_PORT for itself, or a launcher names no port, the ranks meet at one of
 * several ports derived from the run. Options in `given` override the environment, even broken variables.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming a variable that is set but broken, or that is missing while others are set.
 */
export function rendezvousOptionsFromEnv(env: Environment = process.env, given: GivenOptions = {}): JoinOptions {
  const own = given.rank ?? integer(env, 'RANK', 0, Number.MAX_SAFE_INTEGER)
  const launched = own === undefined && given.worldSize === undefined ? launchedBy(env) : undefined
  const rank = own ?? launched?.rank
  const worldSize =
    given.worldSize ?? integer(env, 'WORLD_SIZE', 1, Number.MAX_SAFE_INTEGER) ?? launched?.worldSize ?? (rank ? undefined : 1)
  if (worldSize === undefined) throw invalid('WORLD_SIZE', `missing, although RANK=${rank} is set`)
  if (rank === undefined && worldSize > 1) throw invalid('RANK', `missing, although WORLD_SIZE=${worldSize} is set`)
  if (rank !== undefined && given.rank === undefined && rank >= worldSize)
    throw invalid('RANK', `${rank} is not below WORLD_SIZE=${worldSize}`)
  const secret = given.token === undefined && given.insecure !== true ? secretFromEnv(env) : {}
  return {
    rank: rank ?? 0,
    worldSize,
    ...secret,
    ...(given.address === undefined && addressFromEnv(env, launched)),
    ...given,
  }
}

function secretFromEnv(env: Environment): Pick<JoinOptions, 'token' | 'insecure'> {
  const token = readToken(env)
  const insecure = env['CKPT_INSECURE']
  if (insecure !== undefined && !/^[01]$/.test(insecure))
    throw invalid('CKPT_INSECURE', `${JSON.stringify(insecure)} is not 0 or 1`)
  return { ...(token !== undefined && { token }), ...(insecure === '1' && { insecure: true }) }
}

function addressFromEnv(
  env: Environment,
  launched: Launched | undefined,
): Pick<JoinOptions, 'address' | 'alternatives' | 'run'> {
  const named = env['MASTER_ADDR'] ?? launched?.masterAddr
  if (named === undefined && launched !== undefined && launched.worldSize > 1) {
    throw invalid('MASTER_ADDR', `missing: ${launched.launcher} does not name the machine of rank 0`)
  }
  const host = (named ?? DEFAULT_MASTER_ADDR).replace(/^\[(.*)\]$/, '$1')
  if (!/^[\w.:%-]+$/.test(host)) throw invalid('MASTER_ADDR', `${JSON.stringify(host)} is not a host`)
  const givenPort = integer(env, 'MASTER_PORT', 1, 65_535)
  const port = givenPort ?? DEFAULT_MASTER_PORT
  const derived = givenPort === undefined && launched?.run !== undefined
  const meeting = derived ? meetingOf([launched.launcher, launched.run, host], host) : torchrunMeeting(env, host, port)
  if (meeting === undefined) return { address: `tcp://${host.includes(':') ? `[${host}]` : host}:${port}`, ...runFromEnv(env) }
  const [address, ...alternatives] = meeting.addresses
  const { run: name } = runFromEnv(env)
  return { address: address!, alternatives, run: name === undefined ? meeting.run : `${name}/${meeting.run}` }
}

function runFromEnv(env: Environment): Pick<JoinOptions, 'run'> {
  const run = env['CKPT_RUN_ID']
  return run === undefined || run === '' ? {} : { run }
}

function integer(env: Environment, name: string, min: number, max: number): number | undefined {
  const text = env[name]
  if (text === undefined) return undefined
  const link = serviceLink(name, text)
  if (link !== undefined) throw new CkptError('INVALID_ARGUMENT', link, { fields: { field: name } })
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
  if (token !== undefined && file !== undefined)
    throw invalid('CKPT_TOKEN_FILE', 'set together with CKPT_TOKEN; set only one of them')
  if (file !== undefined) return readSecretFile(file, 'CKPT_TOKEN_FILE')
  return token === undefined ? undefined : checkSecret(token, 'CKPT_TOKEN')
}
