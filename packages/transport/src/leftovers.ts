import { hostAddon } from './addon.ts'

/**
 * Removes a file, or a directory with the files in it, if this thread ends without having done so: a terminated worker thread
 * runs no JavaScript any more. Does nothing without the host addon.
 *
 * @returns a function that cancels this, after it was removed otherwise.
 */
export function removeAtEnd(path: string): () => void {
  try {
    return hostAddon().removeAtEnd(path)
  } catch {
    return () => undefined
  }
}
