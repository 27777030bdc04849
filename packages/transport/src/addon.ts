import { CkptError, ERROR_CODES, type ErrorCode, type ErrorFields } from '@ckpt/contract'
import { loadNativeHost, type NativeHost } from '@ckpt/native-host'

/** The host addon. @throws CkptError `ADDON_UNAVAILABLE`; the message says what is missing and how to get it. */
export function hostAddon(): NativeHost {
  try {
    return loadNativeHost()
  } catch (error) {
    throw fromNative(error)
  }
}

/**
 * An addon's error as a CkptError: its `code` property, where it is one of the contract's, and its other properties as fields.
 * A RangeError or TypeError (a caller's mistake) and a CkptError stay what they are.
 */
export function fromNative(error: unknown): unknown {
  if (CkptError.is(error) || error instanceof RangeError || error instanceof TypeError || !(error instanceof Error))
    return error
  const { code, ...fields } = error as Error & { code?: unknown } & ErrorFields
  const known = typeof code === 'string' && Object.hasOwn(ERROR_CODES, code)
  return new CkptError(known ? (code as ErrorCode) : 'NATIVE_FAILURE', error.message, { fields: { ...fields }, cause: error })
}

/** What `call` returns or resolves to, its errors translated by {@link fromNative}. */
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
