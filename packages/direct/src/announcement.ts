import { CkptError } from '@ckpt/contract'
import { z } from 'zod'
import { firstIssue } from '@ckpt/utils'

/** What a rank says as a direct update begins. */
const announcementSchema = z.object({
  /** The direct update that it has ready to run: which checkpoint for which workers, in the same words on all ranks; null for none. */
  prepared: z.string().max(128).nullable(),
  /** Direct updates that it has counted. */
  directs: z.object({ recordings: z.string().max(128), updates: z.int().nonnegative() }).nullable(),
})

export type DirectAnnouncement = z.infer<typeof announcementSchema>

/** What all of them said. @throws CkptError `RENDEZVOUS_PROTOCOL` naming the rank and the field. */
export function readAnnouncements(announced: readonly unknown[], ranks: readonly number[]): DirectAnnouncement[] {
  return announced.map((value, i) => {
    const parsed = announcementSchema.safeParse(value)
    if (parsed.success) return parsed.data
    const { field, message } = firstIssue(parsed.error)
    const rank = ranks[i]!
    throw new CkptError('RENDEZVOUS_PROTOCOL', `rank ${rank} announces something malformed: ${field}: ${message}`, {
      fields: { rank, field },
    })
  })
}
