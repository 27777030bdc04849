import type { CkptError } from '@ckpt/contract'

/** Reason why a source's part of some metas cannot be read (any more). */
export interface StaleSource {
  readonly rank: number
  /**
   * `ended`: the registration that the metas describe was unregistered, or registered again. `restarted`: the rank has a new
   * endpoint. `gone`: there is no answer. `refused`: everything else, as the message says.
   */
  readonly reason: 'ended' | 'restarted' | 'gone' | 'refused'
}

/** @param error Error of reading from the source, or of connecting to it. */
export function staleSource(rank: number, { code, fields }: CkptError): StaleSource {
  if (code === 'REGION_REFUSED' && fields.field === 'closed') return { rank, reason: 'ended' }
  if (code === 'PEER_PROTOCOL' && fields.field === 'id') return { rank, reason: 'restarted' }
  return { rank, reason: code === 'PEER_LOST' ? 'gone' : 'refused' }
}

/** Returns the same as text. `generation`: of the registration that the metas describe. */
export function staleText({ rank, reason }: StaleSource, error: CkptError, generation: number | undefined): string {
  const registration = `registration${generation === undefined ? '' : ` ${generation}`}`
  switch (reason) {
    case 'ended':
      return `rank ${rank}: the ${registration} that the metas describe has ended: the checkpoint was unregistered, or registered again`
    case 'restarted':
      return `rank ${rank} was restarted meanwhile: ${error.message}`
    default:
      return `rank ${rank}: ${error.message}`
  }
}
