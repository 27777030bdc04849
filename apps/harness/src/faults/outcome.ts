import { CkptError } from '@ckpt/contract'

/** Result of one rank's call. */
export interface Outcome {
  readonly rank: number
  readonly state: 'succeeded' | 'failed' | 'hung'
  readonly error?: CkptError
  /** True if the rank itself threw a CkptError (not another error that was converted on the way). */
  readonly typed: boolean
  /** Time of its end, by `performance.now()`. */
  readonly at: number
}

/** Waits for a call, at most `limitMs`. Never rejects. */
export async function outcome(rank: number, call: Promise<unknown>, limitMs: number): Promise<Outcome> {
  let timer: NodeJS.Timeout | undefined
  const hung = new Promise<Outcome>((resolve) => {
    timer = setTimeout(() => resolve({ rank, state: 'hung', typed: false, at: performance.now() }), limitMs)
  })
  const ended = call.then(
    (): Outcome => ({ rank, state: 'succeeded', typed: true, at: performance.now() }),
    (thrown: unknown): Outcome => {
      const error = CkptError.from(thrown, 'UPDATE_FAILED')
      const typed = (error as { typed?: boolean }).typed ?? CkptError.is(thrown)
      return { rank, state: 'failed', error, typed, at: performance.now() }
    },
  )
  const result = await Promise.race([ended, hung])
  clearTimeout(timer)
  return result
}

/** Returns an error and its causes, outermost first. */
export function chain(error: CkptError): CkptError[] {
  const errors: CkptError[] = []
  for (let at: unknown = error; CkptError.is(at); at = at.cause) errors.push(at)
  return errors
}

/** Formats an error with its causes on one line. */
export function describe(error: CkptError | undefined): string {
  return error === undefined
    ? ''
    : chain(error)
        .map(({ code, message }) => `${code}: ${message}`)
        .join(' <- ')
}
