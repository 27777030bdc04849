import { readdirSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'

const SHARED_MEMORY = '/dev/shm'

/** Removes shared memory that a killed client left: every name that begins with `label`. Never throws. */
export function removeSharedMemory(label: string): void {
  try {
    for (const name of readdirSync(SHARED_MEMORY)) {
      if (name.startsWith(label)) unlinkSync(join(SHARED_MEMORY, name))
    }
  } catch {
    // It is gone already, or belongs to someone else.
  }
}
