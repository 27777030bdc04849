/** Maximum length of a value's text in a message, in characters. */
const LONGEST = 100

/**
 * Returns a value of any origin as short text for an error, without calling methods of the value. (`String` of an object with a
 * `toString` that is not a function throws; `JSON.stringify` of a deep one overflows the stack.)
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
