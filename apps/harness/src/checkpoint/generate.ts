import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Host } from '@ckpt/contract'
import { checkpointTensors, resolveScale, type CheckpointTensor, type Model } from '@ckpt/models'
import { headerFor } from '@ckpt/safetensors'

const SHARD_BYTES = 1e9
const BLOCK_BYTES = 64 * 2 ** 20

/** A checkpoint on disk (or in /dev/shm) that is removed when it is disposed of, or when the process exits. */
export interface GeneratedCheckpoint extends Disposable {
  readonly directory: string
  readonly files: readonly string[]
  readonly bytes: number
  readonly tensors: number
  /** What was kept of the model, in words. */
  readonly scale: string
}

/**
 * Writes a checkpoint with a model's names, shapes and dtypes and pseudo-random bytes, scaled to about `bytes`, in several shards.
 * `label` tells several of the same model apart.
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
  const total = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  const { layers, moe, vocab } = model.architecture
  const kept = [`${scale.layers} of ${layers} layers`]
  if (moe) kept.push(`${scale.experts} of ${moe.experts} experts`)
  if (scale.vocab !== vocab) kept.push(`${scale.vocab} of ${vocab} vocabulary rows`)
  if (scale.width !== 1) kept.push(`widths divided by ${scale.width}`)
  const directory = join(scratchRoot(total), `ckpt-checkpoint-${process.pid}-${model.id}-${label}`)
  const remove = () => rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  process.on('exit', remove)
  const files = await writeShards(host, directory, tensors, seed)
  return {
    directory,
    files,
    bytes: total,
    tensors: tensors.length,
    scale: kept.join(', '),
    [Symbol.dispose]() {
      process.off('exit', remove)
      remove()
    },
  }
}

/** Memory-backed where it has room (so that no disk writeback runs beside the measurement), otherwise the temporary directory. */
function scratchRoot(bytes: number): string {
  const { bavail, bsize } = statfsSync('/dev/shm')
  return bavail * bsize > bytes * 2 ? '/dev/shm' : tmpdir()
}

async function writeShards(
  host: Host,
  directory: string,
  tensors: readonly CheckpointTensor[],
  seed: bigint,
): Promise<string[]> {
  const shards: CheckpointTensor[][] = [[]]
  let size = 0
  for (const tensor of tensors) {
    if (size > 0 && size + tensor.bytes > SHARD_BYTES) {
      shards.push([])
      size = 0
    }
    shards.at(-1)!.push(tensor)
    size += tensor.bytes
  }
  const block = await host.allocate({ bytes: BLOCK_BYTES, lock: false })
  const weightMap: Record<string, string> = {}
  let written = 0n
  const names: string[] = []
  try {
    for (const [index, shard] of shards.entries()) {
      const name = `model-${String(index + 1).padStart(5, '0')}-of-${String(shards.length).padStart(5, '0')}.safetensors`
      const { header, dataBytes } = headerFor(shard)
      const fd = openSync(join(directory, name), 'wx', 0o600)
      try {
        writeAll(fd, header)
        for (let done = 0; done < dataBytes; done += BLOCK_BYTES) {
          await host.fill(block, { seed: seed + written++ })
          writeAll(fd, block.view(0, Math.min(BLOCK_BYTES, dataBytes - done)))
        }
      } finally {
        closeSync(fd)
      }
      for (const tensor of shard) weightMap[tensor.name] = name
      names.push(join(directory, name))
    }
  } finally {
    block.close()
  }
  writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }))
  return names
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done)
}
