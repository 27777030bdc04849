import { CkptError } from '@ckpt/contract'

/** Takes every step, one after the other. @throws CkptError the first failure, once all were taken. */
export async function closeAll(steps: readonly (() => Promise<void> | void)[]): Promise<void> {
  const errors: unknown[] = []
  for (const step of steps) {
    try {
      await step()
    } catch (error) {
      errors.push(error)
    }
  }
  if (errors.length > 0) throw CkptError.from(errors[0], 'NATIVE_FAILURE', 'closing')
}
