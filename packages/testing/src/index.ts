/**
 * Parts for tests and the bench: clusters, the reference engine, checkpoints, faulty links, mutations, real vLLM.
 *
 * @packageDocumentation
 */
export { copyCheckpoint, type CopiedCheckpoint } from './checkpoint/copy.ts'
export { generateCheckpoint, type GeneratedCheckpoint, generateTensors } from './checkpoint/generate.ts'
export { Cluster, type ClusterOptions, freePort, freePorts } from './cluster/cluster.ts'
export { EngineProcess, type EngineProcessOptions } from './cluster/engine-process.ts'
export type { RankPoint } from './cluster/hold-points.ts'
export { atPoint, nodeArguments, SOURCE_FLAGS, type Spawned, spawnSource, wrap } from './cluster/processes.ts'
export { RankProcess } from './cluster/rank-process.ts'
export type { RankUpdate, RankResources } from './cluster/rank-protocol.ts'
export { standInCudaDevice } from './cluster/stand-in-device.ts'
export {
  COMPAT_CHECKS,
  type CompatCheck,
  type CompatEnvironment,
  STOCK_WORKER,
  stockWorkerMissing,
  visibleGpus,
} from './compat/checks.ts'
export { randomCheckpoint, type RandomCheckpoint } from './compat/random-checkpoint.ts'
export { serveControl } from './engine/control-server.ts'
export type { InjectedFault } from './engine/injected-faults.ts'
export { KeptRing } from './engine/kept-ring.ts'
export { Parameters, parametersPrefix, type Verification } from './engine/parameters.ts'
export { runUpdateSession } from './engine/update-session.ts'
export { type Direction, NamespaceHost } from './hosts/host.ts'
export { Hosts, type HostSettings, type HostsOptions } from './hosts/hosts.ts'
export { clockProblem, hostsProblem, type Isolation } from './hosts/namespaces.ts'
export { leftovers } from './leftovers.ts'
export { FaultyLink } from './links/link.ts'
export { inEngine, type Mutation, type MutationKind, mutationsOf, type Way, WAYS } from './mutations/mutation.ts'
export { pythonInterpreter, pythonLacks, pythonProblem } from './python.ts'
export { Random } from './random.ts'
export { TrainerProcess } from './trainer-process.ts'
export { vllmEnvironment, type VllmEnvironment } from './vllm/environment.ts'
export { generateModels, type ModelFamily, type TinyModels, type ModelRequest } from './vllm/models.ts'
export { LocalRanks } from './vllm/ranks.ts'
export {
  type Completion,
  PROMPTS,
  smallSettings,
  TOKENS,
  vllmPythonPath,
  VllmServer,
  type VllmServerOptions,
  type VllmSettings,
  vllmVariables,
} from './vllm/server.ts'
