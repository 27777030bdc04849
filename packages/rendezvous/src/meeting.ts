import { createHash } from 'node:crypto'

import type { Environment } from '@ckpt/contract'

/** Number of ports to try, because some may be taken. */
const PORTS = 8
/** Below the system's ports for outgoing connections. */
const LOWEST_PORT = 20_000
const HIGHEST_PORT = 32_767

/** Meeting place of the ranks of a run whose launcher leaves them no port. */
export interface Meeting {
  /** In the order in which rank 0 tries to listen on them. */
  readonly addresses: readonly string[]
  /** Distinguishes this run's ranks from those of others. */
  readonly run: string
}

/**
 * Returns the meeting place if torchrun's agent keeps MASTER_PORT for its own store (`TORCHELASTIC_USE_AGENT_STORE=True`), so
 * that rank 0 cannot listen there. If all ranks are on one machine they meet on its loopback interface, whatever MASTER_ADDR is.
 * Undefined if MASTER_PORT is rank 0's.
 */
export function torchrunMeeting(env: Environment, host: string, port: number): Meeting | undefined {
  if (env['TORCHELASTIC_USE_AGENT_STORE']?.toLowerCase() !== 'true') return undefined
  const { WORLD_SIZE: world, LOCAL_WORLD_SIZE: local } = env
  const meetAt = world !== undefined && world === local ? 'localhost' : host
  return meetingOf([env['TORCHELASTIC_RUN_ID'] ?? '', host, port], meetAt)
}

/** Derives the same few ports on all ranks from what identifies their run. */
export function meetingOf(identity: readonly (string | number)[], host: string): Meeting {
  const run = createHash('sha256')
    .update(JSON.stringify(['ckpt run 1', ...identity]))
    .digest()
  const ports = new Set<number>()
  // Two bytes of the digest each; if a run hits the same port twice, it has one fewer.
  for (let at = 0; at < 2 * PORTS; at += 2) {
    ports.add(LOWEST_PORT + (run.readUInt16BE(at) % (HIGHEST_PORT - LOWEST_PORT + 1)))
  }
  const shown = host.includes(':') ? `[${host}]` : host
  return { addresses: [...ports].map((one) => `tcp://${shown}:${one}`), run: run.toString('hex') }
}
