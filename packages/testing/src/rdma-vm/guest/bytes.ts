/** Writes reproducible bytes that differ everywhere, so that a piece at a wrong place is detected. */
export function fill(buffer: Buffer, seed: number): void {
  const words = new Uint32Array(buffer.buffer, buffer.byteOffset, Math.floor(buffer.length / 4))
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i ^ seed, 0x9e3779b1)
}

/** Returns a page-aligned buffer: plain ones share pages with others. */
export function pages(bytes: number): Buffer {
  return Buffer.from(new ArrayBuffer(bytes))
}
