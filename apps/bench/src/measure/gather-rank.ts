/** One rank of the gather measurement: holds its share of a model's full-size metadata, without data. */
import { gatherManifest, tensorCount } from '@ckpt/core'
import { checkpointTensors, model, sharedManifest } from '@ckpt/models'
import { encodeRankMetas, joinRendezvous } from '@ckpt/rendezvous'

export interface GatherRankResult {
  readonly tensors: number
  readonly firstMs: number
  readonly unchangedMs: readonly number[]
}

const [name, rank, ranks, address, repeat] = process.argv.slice(2) as [string, string, string, string, string]
const own = sharedManifest(name, checkpointTensors(model(name)), Number(ranks)).ranks[Number(rank)]!
const rendezvous = await joinRendezvous({ rank: Number(rank), worldSize: Number(ranks), address, timeoutMs: 60_000 })

// Encoded at registration, as by `ParameterServer`.
const blob = encodeRankMetas(own)
await rendezvous.barrier('start')
const started = performance.now()
let manifest = await gatherManifest(rendezvous, name, blob, undefined, { timeoutMs: 60_000 })
const firstMs = performance.now() - started
const unchangedMs: number[] = []
for (let i = 0; i < Number(repeat); i++) {
  await rendezvous.barrier('again')
  const again = performance.now()
  manifest = await gatherManifest(rendezvous, name, blob, manifest, { timeoutMs: 60_000 })
  unchangedMs.push(performance.now() - again)
}
const result: GatherRankResult = { tensors: tensorCount(manifest), firstMs, unchangedMs }
await rendezvous.close()
process.send!(result, () => process.disconnect())
