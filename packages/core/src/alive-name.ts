import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/**
 * Name, in a runtime directory, of the socket that listens while the directory's process is alive; the boot id distinguishes
 * machines.
 */
export function aliveName(): string | undefined {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')
    return `alive-${createHash('sha256').update(boot).digest('hex').slice(0, 8)}.sock`
  } catch {
    return undefined
  }
}
