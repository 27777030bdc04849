import { createHash } from 'node:crypto'

import type { Environment } from '@ckpt/contract'

/** Ports that are tried, so that some may be taken by others. */
const PORTS = 8
/** Below the ports that systems give to outgoing connections. */
const LOWEST_PORT = 20_000
const HIGHEST_PORT = 32_767

/** Where the ranks of a torchrun meet. */
export interface Meeting {
  /** In the order in which rank 0 tries to listen on them. */
  readonly addresses: readonly string[]
  /** Tells this run's ranks from those of others. */
  readonly run: string
}

/**
 * torchrun's agent keeps MASTER_PORT for its own store (`TORCHELASTIC_USE_AGENT_STORE=True`): rank 0 cannot listen there. All ranks then
 * derive the same few ports from what torchrun tells each of them. Where all ranks are on one machine they meet on its loopback interface,
 * whatever MASTER_ADDR is. Undefined where MASTER_PORT is rank 0's.
 */
export function torchrunMeeting(env: Environment, host: string, port: number): Meeting | undefined {
  if (env['TORCHELASTIC_USE_AGENT_STORE']?.toLowerCase() !== 'true') return undefined
  const run = createHash('sha256')
    .update(JSON.stringify(['ckpt run 1', env['TORCHELASTIC_RUN_ID'] ?? '', host, port]))
    .digest()
  const ports = new Set<number>()
  // Two bytes of the digest each; a run that hits the same port twice has one fewer.
  for (let at = 0; at < 2 * PORTS; at += 2) {
    ports.add(LOWEST_PORT + (run.readUInt16BE(at) % (HIGHEST_PORT - LOWEST_PORT + 1)))
  }
  const { WORLD_SIZE: world, LOCAL_WORLD_SIZE: local } = env
  const meetAt = world !== undefined && world === local ? 'localhost' : host.includes(':') ? `[${host}]` : host
  return { addresses: [...ports].map((one) => `tcp://${meetAt}:${one}`), run: run.toString('hex') }
}
