import { checkSecret, readSecretFile, userSecretFile } from './secrets.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** Value of `CKPT_ENGINE_KEY` that disables the key. */
const OFF = 'off'

/**
 * Returns the key that calls of an engine's workers carry. It is `given` if set, otherwise `CKPT_ENGINE_KEY`, otherwise the
 * content of the file that `CKPT_ENGINE_KEY_FILE` names, otherwise a secret of this machine's user, which the engine's workers
 * find in the same way.
 *
 * @param given - `false`: no key; the engine has `CKPT_ENGINE_KEY=off` in its environment.
 * @returns undefined if the key is disabled explicitly.
 * @throws CkptError `INVALID_ARGUMENT` naming the field for a key that can be guessed, or a file that others could have written
 * or read.
 */
export function engineKey(given: string | false | undefined, env: Environment = process.env): string | undefined {
  if (given === false) return undefined
  if (given !== undefined) return checkSecret(given, 'engineKey')
  const { CKPT_ENGINE_KEY: key, CKPT_ENGINE_KEY_FILE: file } = env
  if (key === OFF) return undefined
  if (key !== undefined && key !== '') return checkSecret(key, 'CKPT_ENGINE_KEY')
  if (file !== undefined && file !== '') return readSecretFile(file, 'CKPT_ENGINE_KEY_FILE')
  return userSecretFile('engine-key', 'CKPT_ENGINE_KEY_FILE')
}
