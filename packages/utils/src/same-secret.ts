import { createHash, timingSafeEqual } from 'node:crypto'

/** Compares secrets of any lengths, in a time that does not reveal where they differ. */
export function sameSecret(given: string, expected: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(expected))
}
