import { regionBytes, type TensorRegion } from './region.ts'

/** Rows `top` … and columns `left` … of a tensor viewed as a matrix of bytes. */
interface Rectangle {
  readonly top: number
  readonly height: number
  readonly left: number
  readonly width: number
}

/**
 * Returns true if the regions contain every byte of a tensor of `bytes` bytes exactly once, in whole 64-bit words: their sums
 * then add up to the tensor's digest. Returns false if they do not, or if that is hard to determine (regions of three
 * dimensions, of different pitches).
 */
export function isPartition(regions: readonly TensorRegion[], bytes: number): boolean {
  if (bytes % 8 !== 0 || regions.some(({ unit }) => unit !== 8)) return false
  if (regions.reduce((sum, region) => sum + regionBytes(region), 0) !== bytes) return false
  const pitched = regions.find(({ dims }) => dims.length > 0)
  const pitch = pitched?.dims[1] ?? bytes
  if (pitch === 0 || bytes % pitch !== 0) return false
  const rectangles: Rectangle[] = []
  for (const region of regions) {
    const rectangle = rectangleOf(region, pitch)
    if (rectangle === undefined) return false
    rectangles.push(rectangle)
  }
  // Disjoint, inside, and together as large as the whole.
  const rows = bytes / pitch
  if (rectangles.some(({ top, height, left, width }) => top + height > rows || left + width > pitch)) return false
  return rectangles.every((one, i) => rectangles.every((other, k) => k <= i || apart(one, other)))
}

function rectangleOf({ offset, rowBytes, dims }: TensorRegion, pitch: number): Rectangle | undefined {
  const top = Math.floor(offset / pitch)
  const left = offset % pitch
  if (dims.length === 2) return dims[1] === pitch ? { top, height: dims[0]!, left, width: rowBytes } : undefined
  if (dims.length > 2) return undefined
  if (left + rowBytes <= pitch) return { top, height: 1, left, width: rowBytes }
  return left === 0 && rowBytes % pitch === 0 ? { top, height: rowBytes / pitch, left, width: pitch } : undefined
}

function apart(a: Rectangle, b: Rectangle): boolean {
  return a.top + a.height <= b.top || b.top + b.height <= a.top || a.left + a.width <= b.left || b.left + b.width <= a.left
}
