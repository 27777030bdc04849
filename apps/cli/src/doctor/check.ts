/** `missing`: absent or unusable; {@link Check.required} tells if that matters. */
export type Status = 'ok' | 'warn' | 'missing'

/** One line of the output of `ckpt doctor`. */
export interface Check {
  readonly id: string
  readonly status: Status
  /** True if no update runs here without it. */
  readonly required: boolean
  /** Finding, for people. */
  readonly found: string
  /** Remedy; present unless `status` is `ok`. */
  readonly remedy?: string
  /** The same for programs. */
  readonly facts?: Readonly<Record<string, unknown>>
}

/** Checks of one subject. */
export interface Section {
  readonly title: string
  readonly checks: readonly Check[]
}

type Facts = Check['facts']

/** Returns a check with a good result. */
export function ok(id: string, found: string, facts?: Facts): Check {
  return { id, status: 'ok', required: false, found, ...(facts && { facts }) }
}

/** Returns a check of something that works, but not as well as it could. */
export function warn(id: string, found: string, remedy: string, facts?: Facts): Check {
  return { id, status: 'warn', required: false, found, remedy, ...(facts && { facts }) }
}

/** Returns a check of something that is missing and that only some uses need. */
export function missing(id: string, found: string, remedy: string, facts?: Facts): Check {
  return { id, status: 'missing', required: false, found, remedy, ...(facts && { facts }) }
}

/** Returns the same check, marked as something that every update needs. */
export function required(check: Check): Check {
  return { ...check, required: true }
}
