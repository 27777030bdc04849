import { spawn } from 'node:child_process'
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { controlRequest } from '@ckpt/core'
import { CkptError } from '@ckpt/contract'
import { poll } from '@ckpt/utils'
import { spawnSource, wrap, type Spawned } from './processes.ts'
import type { InjectedFault } from '../engine/injected-faults.ts'
import type { Mutation } from '../mutations/mutation.ts'
import { parametersPrefix, type Verification } from '../engine/parameters.ts'

export interface EngineProcessOptions {
  readonly kind: 'typescript' | 'python'
  /** Python interpreter with torch, the worker package and the reference engine. */
  readonly python?: string
  /** Python program that serves the engine (default: the reference engine). */
  readonly program?: string
  /** Device of the engine worker of each rank, for Python engines (default: the CPU). */
  readonly device?: 'cpu' | 'cuda'
  readonly directory: string
  /** Checkpoint with the engine's names and shapes. */
  readonly checkpoint: string
  readonly tpRank: number
  readonly tpSize: number
  /** Additional arguments, such as faults to inject. */
  readonly extra?: readonly string[]
  /** Command line that starts a TypeScript engine. */
  readonly through?: readonly string[]
}

/** A reference engine's worker in a separate process. */
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
      this.process.child.once('exit', () => this.#removeParameters())
    } else {
      const main = program === undefined ? ['-m', 'ckpt_reference'] : [program]
      const where = device === 'cuda' ? ['--device', `cuda:${tpRank}`] : []
      const child = spawn(options.python ?? 'python3', [...main, ...args, ...where], {
        stdio: ['ignore', 'inherit', 'pipe'],
      })
      this.process = wrap(name, child)
    }
  }

  /** Removes files that a killed process could not remove itself. */
  #removeParameters(): void {
    const prefix = parametersPrefix(this.process.child.pid ?? 0)
    for (const name of readdirSync('/dev/shm')) if (name.startsWith(prefix)) rmSync(join('/dev/shm', name), { force: true })
  }

  /** Waits until it answers. @throws CkptError `ENGINE_UNREACHABLE` with its output. */
  async ready(timeoutMs = 60_000): Promise<void> {
    const { child, name } = this.process
    const silent = (cause?: unknown): CkptError => {
      const text = `${name} does not answer (exit ${child.signalCode ?? child.exitCode}): ${this.process.stderr()}`
      return new CkptError('ENGINE_UNREACHABLE', text, { cause })
    }
    const attempt = async (): Promise<true | undefined> => {
      try {
        await controlRequest(this.socket, 'GET', '/health')
        return true
      } catch (error) {
        if (child.exitCode !== null || child.signalCode !== null) throw silent(error)
        return undefined
      }
    }
    if (!(await poll(attempt, { timeoutMs, firstPauseMs: 20, longestPauseMs: 20 }))) throw silent()
  }

  async health(): Promise<{ device: string; version: string | null; dirty: boolean }> {
    return (await controlRequest(this.socket, 'GET', '/health')) as { device: string; version: string | null; dirty: boolean }
  }

  async verify(files: readonly string[]): Promise<Verification> {
    return (await controlRequest(this.socket, 'POST', '/verify', { files })) as Verification
  }

  /** Arms a fault for the next update (TypeScript engines only). */
  async fault(fault: InjectedFault): Promise<void> {
    await controlRequest(this.socket, 'POST', '/fault', fault)
  }

  /** Sets a fault of bytes or copies that happens once; null removes it (TypeScript engines only). */
  async mutate(mutation: Mutation | null): Promise<void> {
    await controlRequest(this.socket, 'POST', '/mutate', { mutation })
  }

  /**
   * Makes the engine start a child that holds its connections open, whatever happens to the engine; resolves to the child's
   * process id.
   */
  async heir(): Promise<number> {
    return ((await controlRequest(this.socket, 'POST', '/heir', {})) as { pid: number }).pid
  }

  /** Lets a held engine continue. */
  go(): void {
    const { child } = this.process
    if (child.connected) child.send({ go: true }, () => undefined) // it may have been killed meanwhile
  }

  async poison(): Promise<void> {
    await controlRequest(this.socket, 'POST', '/poison', {})
  }

  async digests(): Promise<Record<string, string>> {
    return ((await controlRequest(this.socket, 'GET', '/digests')) as { digests: Record<string, string> }).digests
  }
}
