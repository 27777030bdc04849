import type { EngineAdapter, VerificationLevel } from '@ckpt/contract'
import type { CheckedParameters } from './parameter-check.ts'

/** Returns the level that an update's options request. */
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

/** Comparisons made in one update, over all engine workers. */
export interface Verification {
  readonly level: VerificationLevel
  /** Bytes of parameters that were read and compared. */
  readonly bytes: number
  /** Number of parts of tensors in those bytes. */
  readonly routes: number
  /** Reason why it is not `bytes`. */
  readonly reason?: string
  /** Time from the end of loading to the result, in milliseconds. */
  readonly milliseconds: number
}

/** Inputs that determine the extent of an update's verification. */
export interface VerificationInputs {
  readonly asked: VerificationLevel
  /** True if every tensor in the metas has a digest. */
  readonly hasDigests: boolean
  /** True if the engine's workers compare digests in the ring. */
  readonly comparesRing: boolean
  /** Names of the tensors that passed through the ring; undefined for all. */
  readonly staged: ReadonlySet<string> | undefined
  /** Undefined if no parameters were compared. */
  readonly checked: CheckedParameters | undefined
  readonly milliseconds: number
}

/** Returns the extent to which a successful update was verified, with the reason for not more. */
export function verificationOf(inputs: VerificationInputs): Verification {
  const { asked, hasDigests, comparesRing, staged, checked, milliseconds } = inputs
  const { bytes = 0, routes = 0 } = checked ?? {}
  const result = (level: VerificationLevel, reason?: string): Verification => {
    return { level, bytes, routes, ...(reason !== undefined && { reason }), milliseconds }
  }
  if (asked === 'none') return result('none', 'verification was disabled')
  if (!hasDigests) return result('none', 'the metas have no digests: gather them with digests before saving them')
  const reason = asked === 'sources' ? 'comparison of parameters was not requested' : incomplete(checked)
  if (reason === undefined) return result('bytes')
  if (!comparesRing) return result('none', 'the engine’s workers compare no digests')
  const unchecked = checked?.unchecked ?? []
  const covered = staged === undefined || (checked?.unread.length === 0 && unchecked.every((name) => staged.has(name)))
  return result(covered ? 'sources' : 'none', reason)
}

function incomplete(checked: CheckedParameters | undefined): string | undefined {
  if (checked === undefined) return 'parameters were not compared'
  const { unread, unchecked } = checked
  if (unread.length > 0) return `the engine workers of ranks ${unread.join(', ')} have no recording`
  if (unchecked.length === 0) return undefined
  return `parameters of ${unchecked.length} tensors cannot be read back from engine workers (${unchecked[0]!}${unchecked.length > 1 ? ', …' : ''})`
}
