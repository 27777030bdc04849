/** `missing`: it is not there, or unusable; whether that matters says {@link Check.required}. */
export type Status = 'ok' | 'warn' | 'missing'

/** One line of what `ckpt doctor` found. */
export interface Check {
  readonly id: string
  readonly status: Status
  /** Without it no update runs here. */
  readonly required: boolean
  /** What was found, for people. */
  readonly found: string
  /** What to do about it; there wherever `status` is not `ok`. */
  readonly remedy?: string
  /** The same for programs. */
  readonly facts?: Readonly<Record<string, unknown>>
}

/** Checks that belong together. */
export interface Section {
  readonly title: string
  readonly checks: readonly Check[]
}

type Facts = Check['facts']

/** A check that found what it looked for. */
export function ok(id: string, found: string, facts?: Facts): Check {
  return { id, status: 'ok', required: false, found, ...(facts && { facts }) }
}

/** A check of something that works, but not as well as it could. */
export function warn(id: string, found: string, remedy: string, facts?: Facts): Check {
  return { id, status: 'warn', required: false, found, remedy, ...(facts && { facts }) }
}

/** A check of something that is not there and that only some uses need. */
export function missing(id: string, found: string, remedy: string, facts?: Facts): Check {
  return { id, status: 'missing', required: false, found, remedy, ...(facts && { facts }) }
}

/** The same check, of something no update runs without. */
export function required(check: Check): Check {
  return { ...check, required: true }
}
