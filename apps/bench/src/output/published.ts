import { model, type PublishedUpdate } from '@ckpt/models'

/** Returns checkpoint-engine's published rows for a model, smallest cluster first; none for a user's own checkpoint. */
export function publishedRows(id: string): (PublishedUpdate & { readonly title: string })[] {
  try {
    const found = model(id)
    return found.updates.map((row) => ({ title: found.title, ...row }))
  } catch {
    return []
  }
}
