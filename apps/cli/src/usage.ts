/** A mistake in the command line: one line that names the option and what was expected; exit status 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Exit status after a mistake in the command line, before anything was done. */
export const USAGE_STATUS = 2
