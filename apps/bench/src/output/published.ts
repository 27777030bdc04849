import { model, type PublishedUpdate } from '@ckpt/models'

/** checkpoint-engine's published rows for a model, smallest cluster first; none for a checkpoint of the user's own. */
export function publishedRows(id: string): (PublishedUpdate & { readonly title: string })[] {
  try {
    const found = model(id)
    return found.updates.map((row) => ({ title: found.title, ...row }))
  } catch {
    return []
  }
}
