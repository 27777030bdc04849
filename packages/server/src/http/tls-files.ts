import { readFileSync, statSync } from 'node:fs'
import { createSecureContext, type SecureContextOptions } from 'node:tls'
import { CkptError } from '@ckpt/contract'

/** Interval in milliseconds at which files are compared with those that were read. */
const POLL_MS = 10_000

/** Files of a server's certificate, in PEM. */
export interface TlsFiles {
  /** Certificate, followed by those of its issuers except the root. */
  readonly cert: string
  /** Its private key, without a passphrase. */
  readonly key: string
}

/**
 * Reads the certificate and key. @throws CkptError `INVALID_ARGUMENT` naming the file that cannot be read, or both if they do not
 * belong together.
 */
export function readTls(files: TlsFiles): SecureContextOptions {
  const context = { cert: read('cert', files.cert), key: read('key', files.key) }
  try {
    createSecureContext(context)
  } catch (error) {
    const text = `${files.cert} and ${files.key} are not a certificate and its key in PEM`
    throw CkptError.from(error, 'INVALID_ARGUMENT', text, { field: 'tls', file: files.cert })
  }
  return context
}

/**
 * Calls `renewed` when the files have changed and belong together; the key may be replaced a moment after the certificate, so a
 * pair that does not fit is tried again. Returns a function that stops this.
 */
export function watchTls(files: TlsFiles, renewed: (context: SecureContextOptions) => void, pollMs = POLL_MS): () => void {
  let read = stampOf(files)
  const timer = setInterval(() => {
    const now = stampOf(files)
    if (now === read) return
    try {
      renewed(readTls(files))
      read = now
    } catch {
      // Until then connections get the certificate that was read last.
    }
  }, pollMs)
  timer.unref()
  return () => clearInterval(timer)
}

function stampOf(files: TlsFiles): string {
  return [files.cert, files.key]
    .map((path) => {
      const found = statSync(path, { throwIfNoEntry: false, bigint: true })
      return `${found?.ino}-${found?.mtimeNs}-${found?.size}`
    })
    .join(' ')
}

function read(field: 'cert' | 'key', path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `the TLS ${field} ${path} cannot be read`, {
      field: `tls.${field}`,
      file: path,
    })
  }
}
