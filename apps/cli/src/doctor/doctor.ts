import { nodeFacts } from '@ckpt/core'
import { addonsSection } from './addons.ts'
import { bundleOf, bundleSection } from './bundle.ts'
import { missing, type Check, type Section } from './check.ts'
import { environmentSection } from './environment.ts'
import { gpusSection } from './gpus.ts'
import { machineSection } from './machine.ts'
import { memoryFigures, memorySection } from './memory.ts'
import { askNvidiaSmi } from './nvidia-smi.ts'
import { askPython, pythonSection } from './python.ts'
import { rdmaSection } from './rdma.ts'
import { systemFiles } from './system-files.ts'
import { ucxSection } from './ucx.ts'

/** Runs all checks of `ckpt doctor` on this machine. */
export async function examine(options: { python: string; environment: NodeJS.ProcessEnv; script: string }): Promise<Section[]> {
  const { environment } = options
  // Before the addon loads, because it sets its own defaults in this process's environment.
  const variables = environmentSection(environment)
  const files = systemFiles()
  const bundle = bundleOf(options.script)
  const [facts, smi, python, intact] = await Promise.all([
    nodeFacts(environment),
    askNvidiaSmi(),
    askPython(options.python),
    bundle === undefined ? undefined : bundleSection(bundle),
  ])
  const pythonNccl = typeof python === 'string' ? undefined : (python.nccl ?? undefined)
  return [
    machineSection(files, facts.limits?.cpus),
    memorySection(files, memoryFigures(facts.limits?.memory)),
    ...(intact === undefined ? [] : [intact]),
    addonsSection(facts),
    gpusSection({ cuda: facts.cuda, smi, files, environment, pythonNccl }),
    rdmaSection(files, facts),
    ucxSection(facts),
    pythonSection(python),
    variables,
  ]
}

/**
 * Returns checks that are missing although needed: because they are required, or because `needed` names them by id or by the
 * part of it before the dot. A name without a check is also missing.
 */
export function lacking(sections: readonly Section[], needed: readonly string[]): Check[] {
  const checks = sections.flatMap((section) => section.checks)
  const asked = needed.flatMap((name) => {
    const named = checks.filter(({ id }) => id === name || id.startsWith(`${name}.`))
    return named.length > 0 ? named : [missing(name, 'not found on this node', 'see the ids of the checks above')]
  })
  const lacks = [...checks.filter(({ required }) => required), ...asked].filter(({ status }) => status === 'missing')
  return [...new Map(lacks.map((check) => [check.id, check])).values()]
}
