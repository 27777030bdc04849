import { z } from 'zod'
import { MUTATIONS, type Mutation, type MutationKind } from './mutation.ts'

const schema = z.object({ kind: z.enum(MUTATIONS), seed: z.number().int().nonnegative() }).nullable()

/** A fault that a process should have once. */
export class ArmedMutation {
  #armed: Mutation | null = null

  /** @throws ZodError if `body` is not a mutation. */
  arm(body: unknown): void {
    this.#armed = schema.parse(body)
  }

  /** Returns the seed if a fault of this kind is set; it then counts as happened. */
  take(kind: MutationKind): number | undefined {
    if (this.#armed?.kind !== kind) return undefined
    const { seed } = this.#armed
    this.#armed = null
    return seed
  }

  /** True if it has not happened yet. */
  get pending(): boolean {
    return this.#armed !== null
  }
}
