/**
 * Returns the smallest multiple of `alignment`, a power of two, that is not below `value`, a whole number of at most 2^53 - 1.
 */
export function alignUp(value: number, alignment: number): number {
  // Bit operators use the lowest 32 bits of any whole number, and are far cheaper than a division of doubles.
  return value + (-value & (alignment - 1))
}

/**
 * Returns the largest multiple of `alignment`, a power of two, that is not above `value`, a whole number of at most 2^53 - 1.
 */
export function alignDown(value: number, alignment: number): number {
  return value - (value & (alignment - 1))
}
