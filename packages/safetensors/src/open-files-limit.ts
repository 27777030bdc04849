import { readdirSync, readFileSync } from 'node:fs'

/** Maximum descriptors that one registration keeps open. */
const MOST = 256
/** Fraction of the free descriptors that one registration may use: others register, connect and map at the same time. */
const FRACTION = 4

/** Returns the process's limit of open files (RLIMIT_NOFILE, soft); Infinity if there is none or it cannot be read. */
export function openFilesLimit(): number {
  try {
    const found = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))
    return found === null ? Infinity : Number(found[1])
  } catch {
    return Infinity
  }
}

/** Returns the number of files that may be kept open at a time now. */
export function openFilesWindow(): number {
  const limit = openFilesLimit()
  if (limit === Infinity) return MOST
  let open = 0
  try {
    open = readdirSync('/proc/self/fd').length
  } catch {
    // Without /proc: assume that none are open.
  }
  return Math.max(1, Math.min(MOST, Math.floor((limit - open) / FRACTION)))
}
