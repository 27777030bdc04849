import { ContiguousCopies, StridedCopies, type ContiguousCopy, type StridedCopy } from '@ckpt/contract'

/** Bytes read from other hosts at a time, with the copies out of their landing memory. */
export interface Round {
  /** Reads from the sources into the landing memory (0). */
  readonly reads: ContiguousCopies
  /** Copies whose source is the landing memory (0). */
  readonly copies: StridedCopies
  readonly bytes: number
}

/** Copies out of this host's memories, and rounds for the others. */
export interface Cut {
  readonly local: StridedCopies
  readonly rounds: readonly Round[]
}

/**
 * Divides copies by the location of their source. Copies for which `isRemote` is true go into rounds of `roundBytes` at most,
 * whose bytes are adjacent in the landing memory, without the gaps between the needed rows.
 */
export function cutRounds(copies: StridedCopies, isRemote: (source: number) => boolean, roundBytes: number): Cut {
  const local: StridedCopy[] = []
  const rounds: Round[] = []
  let reads: ContiguousCopy[] = []
  let onward: StridedCopy[] = []
  let bytes = 0
  const end = () => {
    if (bytes > 0) rounds.push({ reads: ContiguousCopies.from(reads), copies: StridedCopies.from(onward), bytes })
    reads = []
    onward = []
    bytes = 0
  }
  const add = (piece: StridedCopy) => {
    reads.push(...readsOf(piece, bytes))
    onward.push({ ...piece, source: 0, sourceOffset: bytes, sourcePitch: piece.rowBytes })
    bytes += piece.rowBytes * piece.rows
  }
  for (const copy of copies) {
    if (!isRemote(copy.source)) local.push(copy)
    else {
      for (const piece of pieces(copy, roundBytes)) {
        if (bytes + piece.rowBytes * piece.rows > roundBytes) end()
        add(piece)
      }
    }
  }
  end()
  return { local: StridedCopies.from(local), rounds }
}

/** Returns the reads for one copy, row by row, starting at `at`; rows without gaps become one read. */
function readsOf({ source, sourceOffset, sourcePitch, rowBytes, rows }: StridedCopy, at: number): ContiguousCopy[] {
  const read = (from: number, to: number, bytes: number): ContiguousCopy => {
    return { source, sourceOffset: from, destination: 0, destinationOffset: to, bytes }
  }
  if (rows === 1 || sourcePitch === rowBytes) return [read(sourceOffset, at, rowBytes * rows)]
  return Array.from({ length: rows }, (_, i) => read(sourceOffset + i * sourcePitch, at + i * rowBytes, rowBytes))
}

/** Splits a copy into copies of at most `most` bytes each. */
function* pieces(copy: StridedCopy, most: number): Generator<StridedCopy> {
  const { sourceOffset, sourcePitch, destinationOffset, destinationPitch, rowBytes, rows } = copy
  const together = Math.floor(most / rowBytes)
  if (together >= 1) {
    for (let first = 0; first < rows; first += together) {
      yield {
        ...copy,
        sourceOffset: sourceOffset + first * sourcePitch,
        destinationOffset: destinationOffset + first * destinationPitch,
        rows: Math.min(together, rows - first),
      }
    }
    return
  }
  for (let i = 0; i < rows; i++) {
    for (let at = 0; at < rowBytes; at += most) {
      const length = Math.min(most, rowBytes - at)
      yield {
        ...copy,
        sourceOffset: sourceOffset + i * sourcePitch + at,
        sourcePitch: length,
        destinationOffset: destinationOffset + i * destinationPitch + at,
        destinationPitch: length,
        rowBytes: length,
        rows: 1,
      }
    }
  }
}
