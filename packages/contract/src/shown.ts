/** Longest text of a value in a message, in characters. */
const LONGEST = 100

/**
 * A value of any origin as text for an error: short, and without calling anything that belongs to the value. (`String` of an object with a
 * `toString` that is no function throws; `JSON.stringify` of a deep one overflows the stack.)
 */
export function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > LONGEST ? `${value.slice(0, LONGEST)}…` : value)
  if (typeof value === 'bigint') return `${String(value).slice(0, LONGEST)}n`
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (value instanceof Uint8Array) return `${value.byteLength} bytes`
  if (typeof value === 'object' && value !== null) return 'an object'
  if (typeof value === 'function' || typeof value === 'symbol') return `a ${typeof value}`
  return String(value)
}
