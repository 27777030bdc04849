import type { UpdateContext, UpdateOutcome } from '@ckpt/contract'
import { StagedAttempt } from '@ckpt/staging'
import { checkReport } from './check-report.ts'
import type { Staged } from './direct-state.ts'

/** A staged update in place of a direct one: recorded if the next one could then be direct, replayed if a recording exists. */
export class FallbackAttempt extends StagedAttempt {
  readonly #context: UpdateContext
  readonly #decision: Staged

  constructor(context: UpdateContext, decision: Staged) {
    const { record, replay, check } = decision
    super(context, context.staged, { record, ...(replay !== undefined && { replay }), ...(check && { check: check.tensors }) })
    this.#context = context
    this.#decision = decision
  }

  override outcome(): UpdateOutcome {
    const { recorded, replayed, checked } = this
    const check = checkReport(checked ? this.#decision.check : undefined, this.#context.manifest)
    return {
      ...super.outcome(),
      direct: {
        fallback: this.#decision.reason,
        ...(recorded !== undefined && { recorded }),
        ...(replayed > 0 && { replayed }),
        ...(check && { check }),
        opaque: [],
      },
    }
  }
}
