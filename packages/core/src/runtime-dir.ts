import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * A directory for this process's sockets that only the user may enter (mkdtemp gives mode 0700). It is removed by `close`, and when
 * the process exits without having closed it; what a killed process left is removed by the next one that starts.
 */
export class RuntimeDir {
  readonly path: string
  readonly #onExit = () => rmSync(this.path, { recursive: true, force: true })

  constructor(root = process.env['XDG_RUNTIME_DIR'] ?? tmpdir()) {
    removeStale(root)
    this.path = mkdtempSync(join(root, `ckpt-${process.pid}-`))
    process.on('exit', this.#onExit)
  }

  close(): void {
    process.off('exit', this.#onExit)
    this.#onExit()
  }
}

function removeStale(root: string): void {
  for (const name of readdirSync(root)) {
    const pid = /^ckpt-(\d+)-\w{6}$/.exec(name)?.[1]
    if (pid === undefined || isRunning(Number(pid))) continue
    const path = join(root, name)
    const owner = statSync(path, { throwIfNoEntry: false })
    if (owner?.isDirectory() && owner.uid === process.getuid?.()) rmSync(path, { recursive: true, force: true })
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}
