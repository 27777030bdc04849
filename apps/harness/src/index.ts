/**
 * Multi-process clusters and the reference engine, for tests and the bench.
 *
 * @packageDocumentation
 */
export { Cluster, freePort, type ClusterOptions } from './cluster/cluster.ts'
export { EngineProcess, type EngineProcessOptions } from './cluster/engine-process.ts'
export { SOURCE_FLAGS, spawnSource, type Spawned } from './cluster/processes.ts'
export type { RankResources, RankUpdate } from './cluster/rank-protocol.ts'
export type { Verification } from './engine/parameters.ts'
export { generateCheckpoint, generateTensors, type GeneratedCheckpoint } from './checkpoint/generate.ts'
export { leftovers } from './leftovers.ts'
export { vllmEnvironment, type VllmEnvironment } from './vllm/environment.ts'
export { generateModels, type ModelFamily, type ModelRequest, type TinyModels } from './vllm/models.ts'
export { PROMPTS, VllmServer, type Completion, type VllmServerOptions } from './vllm/server.ts'
