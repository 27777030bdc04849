import { mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Host, HostMemory } from '@ckpt/contract'
import { checkpointTensors, resolveScale, type CheckpointTensor, type Model } from '@ckpt/models'
import { headerFor } from '@ckpt/safetensors'

const SHARD_BYTES = 1e9

interface TensorsOptions {
  readonly id: string
  readonly label: string
  readonly seed: bigint
  readonly scale: string
  /** Size of a shard, unless a single tensor is larger (default: 1 GB). */
  readonly shardBytes?: number
}
const BLOCK_BYTES = 64 * 2 ** 20
/** Shards that are written at the same time: by default the number of libuv's threads. */
const WRITERS = Math.max(1, Number(process.env['UV_THREADPOOL_SIZE'] ?? 4) || 4)

/** A checkpoint on disk (or in /dev/shm) that is removed when it is disposed of, or when the process exits. */
export interface GeneratedCheckpoint extends Disposable {
  readonly directory: string
  readonly files: readonly string[]
  readonly bytes: number
  readonly tensors: number
  /** Part of the model that was kept, as text. */
  readonly scale: string
}

/**
 * Writes a checkpoint with a model's names, shapes and dtypes and pseudo-random bytes, scaled to about `bytes`, in several
 * shards. `label` distinguishes several checkpoints of the same model.
 */
export async function generateCheckpoint(
  host: Host,
  model: Model,
  bytes: number,
  seed: bigint,
  label = 'a',
): Promise<GeneratedCheckpoint> {
  const scale = resolveScale(model, { bytes })
  const tensors = checkpointTensors(model, { bytes })
  const { layers, moe, vocab } = model.architecture
  const kept = [`${scale.layers} of ${layers} layers`]
  if (moe) kept.push(`${scale.experts} of ${moe.experts} experts`)
  if (scale.vocab !== vocab) kept.push(`${scale.vocab} of ${vocab} vocabulary rows`)
  if (scale.width !== 1) kept.push(`widths divided by ${scale.width}`)
  return generateTensors(host, tensors, { id: model.id, label, seed, scale: kept.join(', ') })
}

/** Writes a checkpoint of these tensors, in several shards; see {@link generateCheckpoint}. */
export async function generateTensors(
  host: Host,
  tensors: readonly CheckpointTensor[],
  { id, label, seed, scale, shardBytes = SHARD_BYTES }: TensorsOptions,
): Promise<GeneratedCheckpoint> {
  const total = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  const directory = join(scratchRoot(total), `ckpt-checkpoint-${process.pid}-${id}-${label}`)
  const remove = () => rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  process.on('exit', remove)
  const files = await writeShards(host, directory, tensors, { seed, shardBytes })
  return {
    directory,
    files,
    bytes: total,
    tensors: tensors.length,
    scale,
    [Symbol.dispose]() {
      process.off('exit', remove)
      remove()
    },
  }
}

/** Memory-backed if it has room (so that no disk writeback disturbs the measurement), otherwise the temporary directory. */
function scratchRoot(bytes: number): string {
  const { bavail, bsize } = statfsSync('/dev/shm')
  return bavail * bsize > bytes * 2 ? '/dev/shm' : tmpdir()
}

async function writeShards(
  host: Host,
  directory: string,
  tensors: readonly CheckpointTensor[],
  { seed, shardBytes }: { readonly seed: bigint; readonly shardBytes: number },
): Promise<string[]> {
  const shards: CheckpointTensor[][] = [[]]
  let size = 0
  for (const tensor of tensors) {
    if (size > 0 && size + tensor.bytes > shardBytes) {
      shards.push([])
      size = 0
    }
    shards.at(-1)!.push(tensor)
    size += tensor.bytes
  }
  const names = shards.map((_, index) => `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`)
  // Blocks of the seed at the beginning of each shard.
  const firstBlock: bigint[] = []
  let blocks = 0n
  for (const shard of shards) {
    firstBlock.push(blocks)
    blocks += BigInt(Math.ceil(headerFor(shard).dataBytes / BLOCK_BYTES))
  }
  let next = 0
  const writer = async () => {
    const block = await host.allocate({ bytes: BLOCK_BYTES, lock: false })
    try {
      for (let index = next++; index < shards.length; index = next++) {
        await writeShard(host, block, join(directory, names[index]!), shards[index]!, seed + firstBlock[index]!)
      }
    } finally {
      block.close()
    }
  }
  await Promise.all(Array.from({ length: Math.min(WRITERS, shards.length) }, writer))
  const weightMap = Object.fromEntries(shards.flatMap((shard, index) => shard.map(({ name }) => [name, names[index]!])))
  writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }))
  return names.map((name) => join(directory, name))
}

const number = (value: number) => String(value).padStart(5, '0')

async function writeShard(
  host: Host,
  block: HostMemory,
  path: string,
  shard: readonly CheckpointTensor[],
  seed: bigint,
): Promise<void> {
  const { header, dataBytes } = headerFor(shard)
  const file = await open(path, 'wx', 0o600)
  try {
    await writeAll(file, header)
    for (let done = 0, at = 0n; done < dataBytes; done += BLOCK_BYTES, at++) {
      await host.fill(block, { seed: seed + at, threads: 2 })
      await writeAll(file, block.view(0, Math.min(BLOCK_BYTES, dataBytes - done)))
    }
  } finally {
    await file.close()
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += (await file.write(bytes, done)).bytesWritten
}
