import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { controlRequest } from '@ckpt/core'
import { CkptError } from '@ckpt/contract'
import { spawnSource, wrap, type Spawned } from './processes.ts'
import type { Verification } from '../engine/parameters.ts'

export interface EngineProcessOptions {
  readonly kind: 'typescript' | 'python'
  /** Python interpreter that has torch and the worker package. */
  readonly python?: string
  /** Python program that serves the engine (default: the worker package's reference engine). */
  readonly program?: string
  /** Device of the engine worker of each rank, for Python engines (default: the CPU). */
  readonly device?: 'cpu' | 'cuda'
  readonly directory: string
  /** Checkpoint whose names and shapes the engine is built for. */
  readonly checkpoint: string
  readonly tpRank: number
  readonly tpSize: number
  /** More arguments, such as faults to inject. */
  readonly extra?: readonly string[]
  /** Command line that is to start a TypeScript engine. */
  readonly through?: readonly string[]
}

/** A reference engine's worker in a process of its own. */
export class EngineProcess {
  readonly process: Spawned
  /** Its control socket. */
  readonly socket: string

  constructor(options: EngineProcessOptions) {
    const { kind, tpRank, tpSize, checkpoint, directory, extra = [] } = options
    const { program, device = 'cpu' } = options
    this.socket = join(directory, `engine-${kind}-${tpRank}.sock`)
    const args = ['--control', this.socket, '--tp-rank', String(tpRank), '--tp-size', String(tpSize), ...extra]
    const name = `${kind} engine ${tpRank}`
    if (kind === 'typescript') {
      this.process = spawnSource(name, new URL('../engine/main.ts', import.meta.url), [...args, '--checkpoint', checkpoint], {
        ...(options.through && { through: options.through }),
      })
    } else {
      const main = program === undefined ? ['-m', 'ckpt_worker.reference'] : [program]
      const where = device === 'cuda' ? ['--device', `cuda:${tpRank}`] : []
      const child = spawn(options.python ?? 'python3', [...main, ...args, ...where], {
        stdio: ['ignore', 'inherit', 'pipe'],
      })
      this.process = wrap(name, child)
    }
  }

  /** Waits until it answers. @throws CkptError `ENGINE_UNREACHABLE` with what it printed. */
  async ready(timeoutMs = 60_000): Promise<void> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      try {
        await controlRequest(this.socket, 'GET', '/health')
        return
      } catch (error) {
        const { exitCode, signalCode } = this.process.child
        if (exitCode !== null || signalCode !== null || performance.now() > deadline) {
          const text = `${this.process.name} does not answer (exit ${signalCode ?? exitCode}): ${this.process.stderr()}`
          throw new CkptError('ENGINE_UNREACHABLE', text, { cause: error })
        }
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
  }

  async health(): Promise<{ device: string; version: string | null; dirty: boolean }> {
    return (await controlRequest(this.socket, 'GET', '/health')) as { device: string; version: string | null; dirty: boolean }
  }

  async verify(files: readonly string[]): Promise<Verification> {
    return (await controlRequest(this.socket, 'POST', '/verify', { files })) as Verification
  }

  async poison(): Promise<void> {
    await controlRequest(this.socket, 'POST', '/poison', {})
  }

  async digests(): Promise<Record<string, string>> {
    return ((await controlRequest(this.socket, 'GET', '/digests')) as { digests: Record<string, string> }).digests
  }
}
