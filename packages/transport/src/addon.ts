import { CkptError, ERROR_CODES, type ErrorCode, type ErrorFields } from '@ckpt/contract'
import { loadNativeHost, type NativeHost } from '@ckpt/native-host'

/** The host addon. @throws CkptError `ADDON_UNAVAILABLE`; the message tells what is missing and how to get it. */
export function hostAddon(): NativeHost {
  try {
    return loadNativeHost()
  } catch (error) {
    throw fromNative(error)
  }
}

/**
 * Converts an addon's error to a CkptError: its `code` property, if it is one of the contract's, and its other properties as
 * fields. A RangeError or TypeError (a caller's mistake) and a CkptError are returned unchanged.
 */
export function fromNative(error: unknown): unknown {
  if (CkptError.is(error) || error instanceof RangeError || error instanceof TypeError || !(error instanceof Error))
    return error
  const { code, ...fields } = error as Error & { code?: unknown } & ErrorFields
  const known = typeof code === 'string' && Object.hasOwn(ERROR_CODES, code)
  return new CkptError(known ? (code as ErrorCode) : 'NATIVE_FAILURE', error.message, { fields: { ...fields }, cause: error })
}

/** Returns the result of `call`, with its errors translated by {@link fromNative}. */
export async function native<T>(call: () => T | Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    throw fromNative(error)
  }
}

/** {@link native} for calls that return at once. */
export function nativeSync<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw fromNative(error)
  }
}
