import { SUM_COLUMNS, type Recording, type Route } from '@ckpt/contract'

/**
 * Bytes of a tensor that an engine worker keeps: runs of `rowBytes` starting at `offset`. `dims` is count and stride of each
 * dimension over them, in bytes, outermost first. Two workers that keep the same bytes have equal regions, independent of where
 * they keep them.
 */
export interface TensorRegion {
  readonly offset: number
  readonly rowBytes: number
  readonly dims: readonly number[]
  /**
   * 1, 2, 4 or 8: number of bytes that are summed at a time; it divides every number of the route from which the region was
   * made.
   */
  readonly unit: number
}

/** Returns the region of its tensor that a route reads. */
export function regionOf({ sourceOffset, rowBytes, dims }: Route): TensorRegion {
  const steps: [count: number, stride: number][] = []
  for (let at = 0; at < dims.length; at += 3) if (dims[at] !== 1) steps.push([dims[at]!, dims[at + 1]!])
  const unit = unitOf([sourceOffset, rowBytes, ...steps.map(([, stride]) => stride)])
  steps.sort(([, a], [, b]) => a - b)
  let row = rowBytes
  const merged: [count: number, stride: number][] = []
  for (const [count, stride] of steps) {
    const inner = merged.at(-1)
    if (inner === undefined && stride === row) row *= count
    else if (inner !== undefined && stride !== 0 && stride === inner[0] * inner[1]) inner[0] *= count
    else merged.push([count, stride])
  }
  return { offset: sourceOffset, rowBytes: row, dims: merged.reverse().flat(), unit }
}

/** Returns a key: regions with equal keys are the same bytes, summed in the same way. */
export function regionKey({ offset, rowBytes, dims, unit }: TensorRegion): string {
  return `${unit}:${offset}+${rowBytes}x${dims.join(',')}`
}

/** Returns the bytes of a region; repeated ones count each time. */
export function regionBytes({ rowBytes, dims }: TensorRegion): number {
  let bytes = rowBytes
  for (let at = 0; at < dims.length; at += 2) bytes *= dims[at]!
  return bytes
}

/**
 * Returns what a worker reads from its parameters to sum each route's bytes: columns of `Host.sums`, with the routes as
 * outputs.
 */
export function parameterSums(recording: Pick<Recording, 'routes'>): Float64Array {
  const columns: number[] = []
  recording.routes.forEach((route, output) => {
    const { storage, sourceOffset, destinationOffset, rowBytes, dims } = route
    const unit = regionOf(route).unit
    walk(dims, 3, (offsets, count, strides) => {
      const [position, place] = [sourceOffset + offsets[0]!, destinationOffset + offsets[1]!]
      columns.push(output, storage, place, strides[1]!, rowBytes, count, position, strides[0]!, unit)
    })
  })
  return Float64Array.from(columns)
}

/** Returns what the holder of a tensor, which begins at `start` of `memory`, reads to sum a region's bytes. */
export function sourceSums(region: TensorRegion, output: number, memory: number, start: number): Float64Array {
  const columns: number[] = []
  walk(region.dims, 2, (offsets, count, strides) => {
    const position = region.offset + offsets[0]!
    columns.push(output, memory, start + position, strides[0]!, region.rowBytes, count, position, strides[0]!, region.unit)
  })
  return Float64Array.from(columns)
}

/** Returns the number of entries in the result of {@link parameterSums} and {@link sourceSums}. */
export function sumEntries(columns: Float64Array): number {
  return columns.length / SUM_COLUMNS
}

/**
 * Iterates over all dimensions except the one with the most steps, and calls `each` with the beginning of these runs, their
 * number and their strides. `dims` has `columns` numbers per dimension: its count, then one or two strides.
 */
function walk(
  dims: readonly number[],
  columns: 2 | 3,
  each: (offsets: readonly number[], count: number, strides: readonly number[]) => void,
): void {
  const starts: number[] = []
  for (let at = 0; at < dims.length; at += columns) starts.push(at)
  const longest = starts.reduce((best, at) => (dims[at]! > (dims[best] ?? 0) ? at : best), -1)
  const outer = starts.filter((at) => at !== longest)
  const strides = (at: number) => (at < 0 ? [0, 0] : [dims[at + 1]!, dims[at + columns - 1]!])
  const steps = outer.map(() => 0)
  for (;;) {
    const offsets = [0, 0]
    outer.forEach((at, i) => {
      const [source, place] = strides(at)
      offsets[0]! += steps[i]! * source!
      offsets[1]! += steps[i]! * place!
    })
    each(offsets, longest < 0 ? 1 : dims[longest]!, strides(longest))
    let i = outer.length - 1
    for (; i >= 0; i--) {
      steps[i]!++
      if (steps[i]! < dims[outer[i]!]!) break
      steps[i] = 0
    }
    if (i < 0) return
  }
}

function unitOf(numbers: readonly number[]): number {
  for (const unit of [8, 4, 2]) if (numbers.every((number) => number % unit === 0)) return unit
  return 1
}
