import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import type { EngineAdapter, UpdateSession, Waiting } from '@ckpt/contract'
import { CheckpointEngineSession } from './checkpoint-engine/checkpoint-engine-session.ts'
import { WorkerSession } from './protocol/worker-session.ts'

export interface WorkerAddressOptions {
  readonly rank: number
  readonly deviceUuid: string
  /** Directory of this process's sockets. */
  readonly socketDir: string
  readonly epoch: number
}

/**
 * Returns the address for a worker. checkpoint-engine's workers may run where they do not see this process's files, so theirs
 * is an abstract socket with an unguessable name.
 */
export function workerAddress(engine: EngineAdapter, options: WorkerAddressOptions): string {
  const { rank, deviceUuid, socketDir, epoch } = options
  return engine.protocol === 'checkpoint-engine'
    ? `ipc://@checkpoint-engine-${deviceUuid}-${randomBytes(12).toString('hex')}.sock`
    : `ipc://${join(socketDir, `worker-${rank}-${epoch}.sock`)}`
}

/** Binds the socket of this rank's worker. @throws CkptError `ENGINE_UNREACHABLE` if the address cannot be bound. */
export function openSession(
  engine: EngineAdapter,
  options: {
    rank: number
    address: string
    epoch: number
    timeoutMs: number
    onGiven: () => void
    onWaiting: (waiting: Waiting) => void
  },
): Promise<UpdateSession> {
  return engine.protocol === 'checkpoint-engine' ? CheckpointEngineSession.bind(options) : WorkerSession.bind(options)
}
