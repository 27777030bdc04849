/** Returns a function that does `work` only at its first call; later calls return the same result. */
export function once<A, R>(work: (argument: A) => R): (argument: A) => R {
  let result: { readonly value: R } | undefined
  return (argument) => (result ??= { value: work(argument) }).value
}

/** Resolves when the signal is aborted, or after `timeoutMs`. */
export async function aborted(signal: AbortSignal, timeoutMs: number): Promise<void> {
  if (signal.aborted) return
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, timeoutMs)
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true })
  })
}

/** Returns a signal that is aborted when the first of these is; undefined ones are ignored. */
export function anySignal(...signals: (AbortSignal | undefined)[]): AbortSignal {
  return AbortSignal.any(signals.filter((signal) => signal !== undefined))
}

/** Calls `act` once `signal` is aborted: immediately if it already is. @returns a function that stops listening */
export function onAbort(signal: AbortSignal | undefined, act: () => void): () => void {
  if (signal === undefined) return () => undefined
  if (signal.aborted) act()
  else signal.addEventListener('abort', act, { once: true })
  return () => signal.removeEventListener('abort', act)
}
