import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.mjs'

/** Files of the repository, new ones included unless git ignores them; paths relative to the root. */
export function trackedFiles(root = ROOT) {
  const list = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  return [...new Set(list.split('\0'))].filter((file) => file !== '' && existsSync(join(root, file)))
}
