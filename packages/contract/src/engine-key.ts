import { checkSecret, readSecretFile, userSecretFile } from './secrets.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** What switches the key off, in `CKPT_ENGINE_KEY`. */
const OFF = 'off'

/**
 * The key that calls of an engine's workers carry: `given` where it is given, else `CKPT_ENGINE_KEY`, else the content of the file that
 * `CKPT_ENGINE_KEY_FILE` names, else a secret of this machine's user, which the engine's workers find in the same way.
 *
 * @param given - `false`: none; the engine has `CKPT_ENGINE_KEY=off` in its environment.
 * @returns undefined where the key is switched off by name.
 * @throws CkptError `INVALID_ARGUMENT` naming the field for a key that can be guessed, or a file that others could have written or read.
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
