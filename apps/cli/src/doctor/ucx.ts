import type { NodeFacts } from '@ckpt/core'
import { missing, ok, type Check, type Section } from './check.ts'

/** Checks the UCX library, which only `CKPT_WIRE=ucx` (or `auto` on a trusted network) uses. */
export function ucxSection({ ucx }: Pick<NodeFacts, 'ucx'>): Section {
  return { title: 'UCX', checks: [library(ucx)] }
}

function library(ucx: NodeFacts['ucx']): Check {
  if (ucx === undefined) return missing('ucx.library', 'the UCX addon is not loaded', 'see addon.ucx')
  const { path, version, problem } = ucx
  if (version !== undefined) return ok('ucx.library', `UCX ${version} (${path ?? 'libucp'})`, { path: path ?? null, version })
  const remedy = 'only CKPT_WIRE=ucx needs it: apt-get install libucx0, or set CKPT_UCX_LIBRARY to the directory of libucp.so.0'
  return missing('ucx.library', problem ?? 'no UCX', remedy)
}
