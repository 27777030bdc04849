import { join } from 'node:path'
import type { EngineAdapter } from '@ckpt/contract'
import { ParameterServer, type PrepareReport, type UpdateOptions, type UpdateReport } from '@ckpt/core'
import { freePort } from '../cluster/cluster.ts'

/** Ranks in this process; `await using` ends them. */
export class LocalRanks implements AsyncDisposable {
  readonly servers: readonly ParameterServer[]

  private constructor(servers: readonly ParameterServer[]) {
    this.servers = servers
  }

  static async create(count: number, timeoutMs = 120_000): Promise<LocalRanks> {
    const rendezvous = `tcp://127.0.0.1:${await freePort()}`
    const ranks = Array.from({ length: count }, (_, rank) => rank)
    const create = (rank: number) =>
      ParameterServer.create({ rank, worldSize: count, rendezvous, timeoutMs, threads: 1, shareMemory: true })
    return new LocalRanks(await Promise.all(ranks.map(create)))
  }

  /** Rank 0 registers the model's file. */
  async register(name: string, directory: string): Promise<void> {
    await this.servers[0]!.registerCheckpoint(name, { files: [join(directory, 'model.safetensors')] })
    await Promise.all(this.servers.map((server) => server.gatherMetas(name)))
  }

  /** Prepares updates of an engine on every rank. */
  prepare(name: string, engine: EngineAdapter): Promise<PrepareReport[]> {
    return Promise.all(this.servers.map((server) => server.prepare(name, { engine })))
  }

  update(name: string, options: UpdateOptions): Promise<UpdateReport[]> {
    return Promise.all(this.servers.map((server) => server.update(name, options)))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.servers.map((server) => server.close()))
  }
}
