import type { NodeFacts } from '@ckpt/core'
import { missing, ok, required, type Section } from './check.ts'

/** The native addons: loaded, or why not. */
export function addonsSection({ addons }: NodeFacts): Section {
  const checks = addons.map(({ name, problem }) => {
    const id = `addon.${name}`
    if (problem === undefined) return ok(id, 'loaded')
    const [first, ...fixes] = problem.split('\n')
    return missing(
      id,
      first!,
      fixes.map((fix) => fix.replace(/^- /, '')).join('; ') || 'make the bundle anew on a machine that builds it',
    )
  })
  return { title: 'Native addons', checks: checks.map((check) => (check.id === 'addon.host' ? required(check) : check)) }
}
