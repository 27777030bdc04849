import type { AddonFacts, NodeFacts } from '@ckpt/core'
import { missing, ok, required, warn, type Check, type Section } from './check.ts'

/** Optional inputs of a build and how to install them, by the name in the addon's build information. */
const INPUTS: Readonly<Record<string, { readonly what: string; readonly lacks: string; readonly install: string }>> = {
  libibverbs: {
    what: "libibverbs' headers",
    lacks: 'no RDMA',
    install: 'apt-get install libibverbs-dev (Fedora: rdma-core-devel)',
  },
  libucx: {
    what: "UCX's headers",
    lacks: 'no UCX',
    install: 'apt-get install libucx-dev (Fedora: ucx-devel)',
  },
  nvcc: {
    what: 'nvcc',
    lacks: 'no kernels for GPUs: digests and small copies are slower there',
    install: 'install the CUDA toolkit, or set CUDA_HOME to its directory',
  },
}

/** Checks the native addons: loaded, loaded but built without something, or the reason why not. */
export function addonsSection({ addons }: Pick<NodeFacts, 'addons'>): Section {
  const checks = addons.map(addonCheck)
  return { title: 'Native addons', checks: checks.map((check) => (check.id === 'addon.host' ? required(check) : check)) }
}

function addonCheck({ name, problem, without }: AddonFacts): Check {
  const id = `addon.${name}`
  if (problem !== undefined) {
    const [first, ...fixes] = problem.split('\n')
    const remedy = fixes.map((fix) => fix.replace(/^- /, '')).join('; ')
    return missing(id, first!, remedy || 'make the bundle again on a machine that can build it')
  }
  if (without.length === 0) return ok(id, 'loaded')
  const inputs = without.map(
    (input) => INPUTS[input] ?? { what: input, lacks: 'some features are missing', install: `install ${input}` },
  )
  const found = `loaded, but built without ${inputs.map(({ what, lacks }) => `${what} (${lacks})`).join(' and ')}`
  const remedy = `${inputs.map(({ install }) => install).join('; ')}; then build it again: npm run setup, or a new bundle`
  return warn(id, found, remedy, { without })
}
