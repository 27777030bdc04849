import { STRIDED_COPY_COLUMNS } from '@ckpt/contract'

/** Numbers of a read: index of the source, offset there, offset where it goes, bytes. */
export const READ_COLUMNS = 4

/** What is read from other hosts at a time, and copied on from where it landed. */
export interface Round {
  /** {@link READ_COLUMNS} numbers a run of bytes; offsets where it goes count from the landing memory's start. */
  readonly reads: Float64Array
  /** Copies whose source is the landing memory (0). */
  readonly copies: Float64Array
  readonly bytes: number
}

/** Copies out of this host's memories, whose sources are indices into `kept`, and rounds of the others. */
export interface Cut {
  readonly local: Float64Array
  readonly rounds: readonly Round[]
}

/** Reads for one flat copy, row by row, to `at`; rows without gaps on either side are one. */
export function readsOf(row: ArrayLike<number>, at: number, pitch: number): number[] {
  const [source, offset, sourcePitch, , , , rowBytes, rows] = Array.from(row) as Row
  if (rows === 1 || (sourcePitch === rowBytes && pitch === rowBytes)) return [source, offset, at, rowBytes * rows]
  const reads: number[] = []
  for (let i = 0; i < rows; i++) reads.push(source, offset + i * sourcePitch, at + i * pitch, rowBytes)
  return reads
}

type Row = [number, number, number, number, number, number, number, number]

/**
 * Cuts copies by where their source is: what `isRemote` goes in rounds of `roundBytes` at most, whose bytes land side by side, without
 * what lies between the rows that are needed.
 */
export function cutRounds(copies: Float64Array, isRemote: (source: number) => boolean, roundBytes: number): Cut {
  const local: number[] = []
  const rounds: Round[] = []
  let reads: number[] = []
  let onward: number[] = []
  let bytes = 0
  const end = () => {
    if (bytes > 0) rounds.push({ reads: Float64Array.from(reads), copies: Float64Array.from(onward), bytes })
    reads = []
    onward = []
    bytes = 0
  }
  const add = (row: Row) => {
    const [, , , destination, destinationOffset, destinationPitch, rowBytes, rows] = row
    for (const value of readsOf(row, bytes, rowBytes)) reads.push(value)
    onward.push(0, bytes, rowBytes, destination, destinationOffset, destinationPitch, rowBytes, rows)
    bytes += rowBytes * rows
  }
  for (let from = 0; from < copies.length; from += STRIDED_COPY_COLUMNS) {
    const row = Array.from(copies.subarray(from, from + STRIDED_COPY_COLUMNS)) as Row
    if (!isRemote(row[0])) local.push(...row)
    else {
      for (const piece of pieces(row, roundBytes)) {
        if (bytes + piece[6] * piece[7] > roundBytes) end()
        add(piece)
      }
    }
  }
  end()
  return { local: Float64Array.from(local), rounds }
}

/** A copy as copies of `most` bytes at most each. */
function* pieces(row: Row, most: number): Generator<Row> {
  const [source, sourceOffset, sourcePitch, destination, destinationOffset, destinationPitch, rowBytes, rows] = row
  const together = Math.floor(most / rowBytes)
  if (together >= 1) {
    for (let first = 0; first < rows; first += together) {
      const offsets = [sourceOffset + first * sourcePitch, destinationOffset + first * destinationPitch] as const
      const count = Math.min(together, rows - first)
      yield [source, offsets[0], sourcePitch, destination, offsets[1], destinationPitch, rowBytes, count]
    }
    return
  }
  for (let i = 0; i < rows; i++) {
    for (let at = 0; at < rowBytes; at += most) {
      const length = Math.min(most, rowBytes - at)
      const [from, to] = [sourceOffset + i * sourcePitch + at, destinationOffset + i * destinationPitch + at]
      yield [source, from, length, destination, to, length, length, 1]
    }
  }
}
