import type { Route } from '@ckpt/contract'

/** A two-dimensional copy under construction; the fields of `StridedCopy`. */
export interface Copy {
  source: number
  sourceOffset: number
  sourcePitch: number
  destination: number
  destinationOffset: number
  destinationPitch: number
  rowBytes: number
  rows: number
}

/** Rows up to this size are joined to two-dimensional copies if they are evenly spaced; longer ones are as fast alone. */
const JOIN_BYTES = 64 * 1024

/**
 * Yields a route as two-dimensional copies: the dimension with the most steps becomes the rows, the others are iterated.
 * `source` and `sourceStart` give the beginning of its tensor.
 */
export function* expand(route: Route, source: number, sourceStart: number): Generator<Copy> {
  const { dims, rowBytes, storage } = route
  let rowsAt = -1
  for (let at = 0; at < dims.length; at += 3) {
    // Rows that overlap in their source (a broadcast copy) are copied one by one, because not every copy engine supports them.
    if (dims[at + 1]! >= rowBytes && (rowsAt < 0 || dims[at]! > dims[rowsAt]!)) rowsAt = at
  }
  const rows = rowsAt < 0 ? 1 : dims[rowsAt]!
  const walked: number[] = []
  for (let at = 0; at < dims.length; at += 3) if (at !== rowsAt) walked.push(at)
  const steps = walked.map(() => 0)
  for (;;) {
    let sourceOffset = sourceStart + route.sourceOffset
    let destinationOffset = route.destinationOffset
    walked.forEach((at, i) => {
      sourceOffset += steps[i]! * dims[at + 1]!
      destinationOffset += steps[i]! * dims[at + 2]!
    })
    yield {
      source,
      sourceOffset,
      sourcePitch: rows === 1 ? rowBytes : dims[rowsAt + 1]!,
      destination: storage,
      destinationOffset,
      destinationPitch: rows === 1 ? rowBytes : dims[rowsAt + 2]!,
      rowBytes,
      rows,
    }
    let i = walked.length - 1
    for (; i >= 0; i--) {
      steps[i]!++
      if (steps[i]! < dims[walked[i]!]!) break
      steps[i] = 0
    }
    if (i < 0) return
  }
}

/** Sorts copies by their order in the host's memory, and joins contiguous ones. The copied bytes stay the same. */
export function merge(copies: Copy[]): Copy[] {
  copies.sort((a, b) => a.source - b.source || a.sourceOffset - b.sourceOffset || a.destination - b.destination)
  const merged: Copy[] = []
  for (const copy of copies) {
    const last = merged.at(-1)
    if (last === undefined || !join(last, copy)) merged.push({ ...copy })
  }
  return merged
}

/** Extends `last` to also copy what `next` copies, if one copy can do both. */
function join(last: Copy, next: Copy): boolean {
  if (last.source !== next.source || last.destination !== next.destination) return false
  const lastFlat = flat(last)
  const nextFlat = flat(next)
  if (lastFlat && nextFlat) {
    const bytes = last.rowBytes * last.rows
    if (next.sourceOffset === last.sourceOffset + bytes && next.destinationOffset === last.destinationOffset + bytes) {
      last.rowBytes = bytes + next.rowBytes * next.rows
      last.rows = 1
      last.sourcePitch = last.destinationPitch = last.rowBytes
      return true
    }
  }
  if (last.rowBytes !== next.rowBytes || last.rowBytes > JOIN_BYTES) return false
  const sourceStep = next.sourceOffset - last.sourceOffset
  const destinationStep = next.destinationOffset - last.destinationOffset
  if (last.rows === 1) {
    if (sourceStep < last.rowBytes || destinationStep < last.rowBytes) return false
    if (next.rows > 1 && (next.sourcePitch !== sourceStep || next.destinationPitch !== destinationStep)) return false
    last.sourcePitch = sourceStep
    last.destinationPitch = destinationStep
  } else {
    if (sourceStep !== last.rows * last.sourcePitch || destinationStep !== last.rows * last.destinationPitch) return false
    if (next.rows > 1 && (next.sourcePitch !== last.sourcePitch || next.destinationPitch !== last.destinationPitch))
      return false
  }
  last.rows += next.rows
  return true
}

function flat({ rows, rowBytes, sourcePitch, destinationPitch }: Copy): boolean {
  return rows === 1 || (sourcePitch === rowBytes && destinationPitch === rowBytes)
}

/** Bytes moved by a list of copies. */
export function bytesOf(copies: readonly Copy[]): number {
  return copies.reduce((sum, { rowBytes, rows }) => sum + rowBytes * rows, 0)
}
