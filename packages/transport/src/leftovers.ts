import { hostAddon } from './addon.ts'

/**
 * Removes a file, or a directory with the files in it, when this thread ends without having done so: a worker thread that is terminated runs no
 * JavaScript any more. Does nothing where the host addon is not there.
 *
 * @returns what takes that back, for when it has been removed otherwise.
 */
export function removeAtEnd(path: string): () => void {
  try {
    return hostAddon().removeAtEnd(path)
  } catch {
    return () => undefined
  }
}
