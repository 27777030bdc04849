import { CkptError } from '@ckpt/contract'
import { z } from 'zod'
import { firstIssue } from '@ckpt/utils'

/** A rank's announcement at the beginning of a direct update. */
const announcementSchema = z.object({
  /**
   * Prepared direct update that is ready to run: the checkpoint and the workers, in a text that is equal on all ranks; null for
   * none.
   */
  prepared: z.string().max(128).nullable(),
  /** Number of direct updates so far. */
  directs: z.object({ recordings: z.string().max(128), updates: z.int().nonnegative() }).nullable(),
})

export type DirectAnnouncement = z.infer<typeof announcementSchema>

/** Validates the announcements of all ranks. @throws CkptError `RENDEZVOUS_PROTOCOL` naming the rank and the field. */
export function readAnnouncements(announced: readonly unknown[], ranks: readonly number[]): DirectAnnouncement[] {
  return announced.map((value, i) => {
    const parsed = announcementSchema.safeParse(value)
    if (parsed.success) return parsed.data
    const { field, message } = firstIssue(parsed.error)
    const rank = ranks[i]!
    throw new CkptError('RENDEZVOUS_PROTOCOL', `announcement of rank ${rank} is malformed: ${field}: ${message}`, {
      fields: { rank, field },
    })
  })
}
