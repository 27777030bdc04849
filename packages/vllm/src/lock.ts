import { createHash } from 'node:crypto'
import { realpathSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { CkptError } from '@ckpt/contract'

const LOOPBACK = new Set(['localhost', '127.0.0.1', '[::1]', '0.0.0.0'])

/**
 * Keeps other parameter servers of this machine away from an engine, through an abstract unix socket named after it, which the
 * kernel frees whatever happens to this process. The rank that calls an engine runs on its machine, so the others are there
 * too.
 */
export class EngineLock implements AsyncDisposable {
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
  }

  /** @throws CkptError `ENGINE_BUSY` if a different server holds it. */
  static async take(target: { readonly url?: string; readonly socketPath?: string }, where: string): Promise<EngineLock> {
    const server = createServer((socket) => socket.destroy())
    const name = `\0ckpt-engine-${createHash('sha256').update(identity(target)).digest('hex').slice(0, 32)}`
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        const busy = error.code === 'EADDRINUSE'
        const text = busy ? `a different parameter server is updating the engine at ${where}` : `cannot lock ${where}`
        reject(new CkptError(busy ? 'ENGINE_BUSY' : 'NATIVE_FAILURE', text, { cause: error, fields: { peer: where } }))
      })
      server.listen(name, resolve)
    })
    server.unref()
    return new EngineLock(server)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }
}

/** Equal for every notation of an address of this machine. */
function identity({ url, socketPath }: { readonly url?: string; readonly socketPath?: string }): string {
  if (socketPath !== undefined) {
    try {
      return `unix:${realpathSync(socketPath)}`
    } catch {
      return `unix:${socketPath}`
    }
  }
  const { hostname, port, protocol } = new URL(url!)
  const host = LOOPBACK.has(hostname) ? 'loopback' : hostname
  return `tcp:${host}:${port === '' ? (protocol === 'https:' ? '443' : '80') : port}`
}
