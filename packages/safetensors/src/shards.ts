import type { SafetensorsHeader } from './header.ts'
import { OpenedCheckpoint } from './opened-checkpoint.ts'

/** The files of one checkpoint with their headers. */
export interface CheckpointFiles {
  readonly directory: string
  /** Path of the index that named the files; absent if there was none. */
  readonly index?: string
  /** Paths, ascending. */
  readonly files: readonly string[]
  /** One header per file, in the order of `files`. */
  readonly headers: readonly SafetensorsHeader[]
}

/**
 * Finds the files of a checkpoint and reads their headers.
 *
 * `path` may be an index (`….safetensors.index.json`), a single `.safetensors` file, or a directory. In a directory the index
 * is used first (`model.safetensors.index.json`, or the only one there), then `model.safetensors`, then all `*.safetensors`;
 * names that start with a dot are skipped. With an index, a tensor that its shard lacks, a tensor in two shards and a missing
 * shard are errors; shards may hold tensors that the index does not name, and may be in directories below the index's.
 *
 * @throws CkptError `CHECKPOINT_UNREADABLE`, `CHECKPOINT_MALFORMED` or `CHECKPOINT_CHANGED`, naming the file, the tensor and
 * the field.
 */
export async function readIndex(path: string): Promise<CheckpointFiles> {
  await using opened = await OpenedCheckpoint.find(path)
  await opened.verify()
  const { directory, index, headers } = opened
  return { directory, ...(index !== undefined && { index }), files: headers.map((header) => header.file), headers }
}

/**
 * Reads the headers of several files that form one checkpoint.
 *
 * @throws CkptError as for `readHeader`, and `CHECKPOINT_MALFORMED` for a tensor in two of the files.
 */
export async function readHeaders(files: readonly string[]): Promise<readonly SafetensorsHeader[]> {
  await using opened = await OpenedCheckpoint.open(files)
  await opened.verify()
  return opened.headers
}
