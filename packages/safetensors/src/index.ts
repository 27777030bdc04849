/**
 * Reads and writes safetensors headers, files and sharded indexes.
 *
 * @packageDocumentation
 */
export {
  LENGTH_BYTES,
  MAX_HEADER_BYTES,
  parseHeader,
  type HeaderSource,
  type HeaderTensor,
  type SafetensorsHeader,
} from './header.ts'
export { OpenedCheckpoint, type OpenCheckpointOptions } from './opened-checkpoint.ts'
export { openByPath, OpenedFile, type FileOpener } from './opened-file.ts'
export { readHeader } from './read.ts'
export { readHeaders, readIndex, type CheckpointFiles } from './shards.ts'
export {
  headerFor,
  writeFile,
  type HeaderLayout,
  type HeaderOptions,
  type TensorBytes,
  type TensorSpec,
  type WritableTensor,
} from './write.ts'
