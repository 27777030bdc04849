/** Secret of the endpoints of tests, also in processes that vitest does not run. */
export const secret = 'a secret for tests, long enough'
export const connect = { secret, timeoutMs: 20_000 }
