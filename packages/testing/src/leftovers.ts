import { readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * Returns what processes of ckpt left behind: shared memory, run and socket directories, by path. With `pids`, only those that
 * carry one of them in their name (other runs may be active).
 */
export function leftovers(pids?: ReadonlySet<number>): string[] {
  return ['/dev/shm', process.env['XDG_RUNTIME_DIR'] ?? tmpdir()].flatMap((directory) =>
    readdirSync(directory)
      .filter((name) => {
        const match = /^ckpt-(?:[a-z]+-)?(\d+)-/.exec(name)
        return match !== null && (pids === undefined || pids.has(Number(match[1])))
      })
      .map((name) => join(directory, name)),
  )
}
