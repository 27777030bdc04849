import { createHash } from 'node:crypto'

export { MAX_DIMENSIONS, MAX_NAME_LENGTH as MAX_NAME } from '@ckpt/contract'

/**
 * The metas of one rank as bytes, version 1. Little-endian; `varint` is LEB128 up to 2^53 - 1; `text` is a varint length and UTF-8.
 *
 * ```
 * magic "CKPM"  u16 version  u16 flags (1: digests)
 * varint rank   text host    text deviceUuid
 * varint segments;  each: u8 kind, varint bytes
 * varint shapes;    each: varint dimensions, varint each
 * varint kinds;     each: u8 dtype, varint shape           (a kind is a pair of dtype and shape; sizes follow from it)
 * varint tensors
 *   names           u8 width, prefix column; varint dictionary entries, u8 width, id column, varint byte lengths, bytes
 *   kinds           u8 width, column
 *   segments        runs of (varint segment, varint length) until all tensors are covered
 *   offsets         u8 log2 of the alignment, varint exceptions; each: varint tensors skipped, varint offset
 *   digests         8 bytes each, when flagged
 * ```
 *
 * Names are front-coded: a name is the first `prefix` UTF-16 units of the name before it and a dictionary entry. Every
 * {@link NAME_BLOCK}th name starts afresh, so that a name costs at most one block. A tensor without an offset exception lies where
 * the previous tensor of its segment ended, rounded up to the alignment.
 */
export const MAGIC = 0x4d504b43
export const VERSION = 1
export const FLAG_DIGESTS = 1
export const NAME_BLOCK = 64
/** Maximum UTF-16 units of all names of a rank together: with front-coding, a few bytes make a long name. */
export const MAX_NAMES = 2 ** 26
/** Maximum host name or device UUID in bytes. */
export const MAX_TEXT = 1024
export const MAX_ALIGNMENT_LOG2 = 21
export const SEGMENT_KINDS = ['anonymous', 'shared', 'file'] as const

/** Digest of an encoded payload: the first 128 bits of its SHA-256, as 32 hex digits. */
export function metasDigest(payload: Uint8Array): string {
  return createHash('sha256').update(payload).digest('hex').slice(0, 32)
}
