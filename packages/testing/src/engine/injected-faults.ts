import type { RankMessage } from '@ckpt/worker-link/protocol'
import { z } from 'zod'

const faultSchema = z.object({
  /** Type of the rank's message before which the fault happens. */
  at: z.string(),
  /** Index of the first affected message of this type within the update, from 0; later ones are affected too. */
  from: z.number().int().nonnegative().default(0),
  /** `hold`: tell the parent process and wait for its answer; `raise`: fail; `slow`: take `ms` longer for each. */
  action: z.enum(['hold', 'raise', 'slow']),
  ms: z.number().nonnegative().default(0),
})

/** A fault that the engine should have in its next update. */
export type InjectedFault = z.input<typeof faultSchema>

/** Faults set through the control socket, for one update. */
export class InjectedFaults {
  #armed: z.output<typeof faultSchema> | undefined
  #seen = 0

  constructor() {
    process.on('message', (message: unknown) => {
      if (typeof message === 'object' && message !== null && 'go' in message) this.#go()
    })
  }

  #go: () => void = () => undefined

  /** @throws ZodError if `body` is not a fault. */
  arm(body: unknown): void {
    this.#armed = body === null ? undefined : faultSchema.parse(body)
    this.#seen = 0
  }

  async before(message: RankMessage): Promise<void> {
    const fault = this.#armed
    if (message.type === 'commit' || message.type === 'abort') this.#armed = undefined
    if (fault === undefined || message.type !== fault.at || this.#seen++ < fault.from) return
    if (fault.action === 'slow') return new Promise((resolve) => setTimeout(resolve, fault.ms))
    this.#armed = undefined
    if (fault.action === 'raise') throw new Error(`injected failure at ${fault.at}`)
    const gone = new Promise<void>((resolve) => (this.#go = resolve))
    process.send?.({ point: fault.at })
    await gone
  }
}
