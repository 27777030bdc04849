export const MASK = (1n << 64n) - 1n
export const GOLDEN = 0x9e3779b97f4a7c15n

/** `mix` of docs/worker-protocol.md. */
export function mix(x: bigint): bigint {
  const factor = 0xd6e8feb86659fd93n
  x = ((x ^ (x >> 32n)) * factor) & MASK
  x = ((x ^ (x >> 32n)) * factor) & MASK
  return x ^ (x >> 32n)
}

/** The digest of docs/worker-protocol.md, implemented independently of the addon. */
export function digestOf(data: Uint8Array): bigint {
  let sum = mix(BigInt(data.length) ^ 0xff51afd7ed558ccdn)
  for (let at = 0, i = 1n; at < data.length; at += 8, i++) {
    let word = 0n
    data.subarray(at, at + 8).forEach((byte, position) => (word |= BigInt(byte) << BigInt(8 * position)))
    sum += mix((word + i * GOLDEN) & MASK)
  }
  return sum & MASK
}
