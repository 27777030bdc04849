import type { NodeFacts } from '@ckpt/core'
import { missing, ok, warn, type Check, type Section } from './check.ts'

/** Checks the UCX library, which only `CKPT_WIRE=ucx` (or `auto` on a trusted network) uses. */
export function ucxSection({ ucx }: Pick<NodeFacts, 'ucx'>): Section {
  return { title: 'UCX', checks: [library(ucx)] }
}

function library(ucx: NodeFacts['ucx']): Check {
  if (ucx === undefined) return missing('ucx.library', 'the UCX addon is not loaded', 'see addon.ucx')
  const { path, version, problem, endsProcesses } = ucx
  if (version !== undefined) {
    const [found, facts] = [`UCX ${version} (${path ?? 'libucp'})`, { path: path ?? null, version }]
    if (!endsProcesses) return ok('ucx.library', found, facts)
    const newer = 'CKPT_WIRE=auto does not use it, as it can end the process when a connection fails: install 1.14 or newer'
    return warn('ucx.library', found, newer, facts)
  }
  const remedy = 'only CKPT_WIRE=ucx needs it: apt-get install libucx0, or set CKPT_UCX_LIBRARY to the directory of libucp.so.0'
  return missing('ucx.library', problem ?? 'no UCX', remedy)
}
