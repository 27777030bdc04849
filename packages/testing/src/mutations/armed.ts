import { z } from 'zod'
import { MUTATIONS, type Mutation, type MutationKind } from './mutation.ts'

const schema = z.object({ kind: z.enum(MUTATIONS), seed: z.number().int().nonnegative() }).nullable()

/** One fault that a process is told to have, once. */
export class ArmedMutation {
  #armed: Mutation | null = null

  /** @throws ZodError when `body` is none. */
  arm(body: unknown): void {
    this.#armed = schema.parse(body)
  }

  /** The seed, where a fault of this kind is armed; it then happened. */
  take(kind: MutationKind): number | undefined {
    if (this.#armed?.kind !== kind) return undefined
    const { seed } = this.#armed
    this.#armed = null
    return seed
  }

  /** True if it is still to happen. */
  get pending(): boolean {
    return this.#armed !== null
  }
}
