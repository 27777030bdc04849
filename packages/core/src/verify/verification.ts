import type { EngineAdapter, VerificationLevel } from '@ckpt/contract'
import type { CheckedParameters } from './parameter-check.ts'

/** The level that an update's options ask for. */
export function verificationAsked({
  verify,
  engine,
}: {
  readonly verify?: VerificationLevel | boolean | undefined
  readonly engine: Pick<EngineAdapter, 'protocol'>
}): VerificationLevel {
  if (verify === undefined) return engine.protocol === 'checkpoint-engine' ? 'none' : 'bytes'
  return verify === true ? 'bytes' : verify === false ? 'none' : verify
}

/** What was compared in one update, all engine workers together. */
export interface Verification {
  readonly level: VerificationLevel
  /** Bytes of parameters that were read and compared. */
  readonly bytes: number
  /** Parts of tensors that those bytes are. */
  readonly routes: number
  /** Why it is not `bytes`. */
  readonly reason?: string
  /** Time from the end of loading to the result, in milliseconds. */
  readonly milliseconds: number
}

/** What decides how far an update was verified. */
export interface VerificationInputs {
  readonly asked: VerificationLevel
  /** True if every tensor in the metas has a digest. */
  readonly hasDigests: boolean
  /** True if the engine's workers compare digests of what lies in the ring. */
  readonly comparesRing: boolean
  /** Names of the tensors that came through the ring; undefined for all. */
  readonly staged: ReadonlySet<string> | undefined
  /** Undefined where no parameters were compared. */
  readonly checked: CheckedParameters | undefined
  readonly milliseconds: number
}

/** How far an update that went well was verified, and why no further. */
export function verificationOf(inputs: VerificationInputs): Verification {
  const { asked, hasDigests, comparesRing, staged, checked, milliseconds } = inputs
  const { bytes = 0, routes = 0 } = checked ?? {}
  const result = (level: VerificationLevel, reason?: string): Verification => {
    return { level, bytes, routes, ...(reason !== undefined && { reason }), milliseconds }
  }
  if (asked === 'none') return result('none', 'verification was switched off')
  if (!hasDigests) return result('none', 'the metas have no digests: gather them with digests before saving them')
  const reason = asked === 'sources' ? 'parameters were not to be compared' : incomplete(checked)
  if (reason === undefined) return result('bytes')
  if (!comparesRing) return result('none', 'the engine’s workers compare no digests')
  const unchecked = checked?.unchecked ?? []
  const covered = staged === undefined || (checked?.unread.length === 0 && unchecked.every((name) => staged.has(name)))
  return result(covered ? 'sources' : 'none', reason)
}

function incomplete(checked: CheckedParameters | undefined): string | undefined {
  if (checked === undefined) return 'parameters were not compared'
  const { unread, unchecked } = checked
  if (unread.length > 0) return `what the engine workers of ranks ${unread.join(', ')} copy where is not recorded`
  if (unchecked.length === 0) return undefined
  return `what engine workers keep of ${unchecked.length} tensors cannot be read back (${unchecked[0]!}${unchecked.length > 1 ? ', …' : ''})`
}
