import { readdirSync, readFileSync } from 'node:fs'

/** Most descriptors that one registration keeps open. */
const MOST = 256
/** Part of the free descriptors that one registration may take: others register, connect and map at the same time. */
const FRACTION = 4

/** The process's limit of open files (RLIMIT_NOFILE, soft); Infinity where there is none or it cannot be read. */
export function openFilesLimit(): number {
  try {
    const found = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))
    return found === null ? Infinity : Number(found[1])
  } catch {
    return Infinity
  }
}

/** How many files may be kept open at a time now. */
export function openFilesWindow(): number {
  const limit = openFilesLimit()
  if (limit === Infinity) return MOST
  let open = 0
  try {
    open = readdirSync('/proc/self/fd').length
  } catch {
    // There is no /proc: as if none were open.
  }
  return Math.max(1, Math.min(MOST, Math.floor((limit - open) / FRACTION)))
}
