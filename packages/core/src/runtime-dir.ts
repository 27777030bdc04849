import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * A directory for this process's sockets that only the user may enter (mkdtemp gives mode 0700). It is removed by `close`, and when
 * the process exits without having closed it.
 */
export class RuntimeDir {
  readonly path = mkdtempSync(join(process.env['XDG_RUNTIME_DIR'] ?? tmpdir(), `ckpt-${process.pid}-`))
  readonly #onExit = () => rmSync(this.path, { recursive: true, force: true })

  constructor() {
    process.on('exit', this.#onExit)
  }

  close(): void {
    process.off('exit', this.#onExit)
    this.#onExit()
  }
}
