import { CkptError } from '@ckpt/contract'
import { memoryLimits } from '@ckpt/core'
import { ok, warn, type Check, type Section } from './check.ts'

const RELEVANT =
  /^(PS|NCCL|CUDA|CKPT|NVIDIA)_|^(RANK|LOCAL_RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|PYTHONPATH|LD_LIBRARY_PATH)$/
const SECRET = /TOKEN$|SECRET|KEY$/

/** Variables that change the behaviour of ckpt, NCCL or CUDA; secrets only by name. */
export function environmentSection(environment: NodeJS.ProcessEnv): Section {
  const names = Object.keys(environment)
    .filter((name) => RELEVANT.test(name))
    .sort()
  const variables = Object.fromEntries(names.map((name) => [name, SECRET.test(name) ? '(set, not shown)' : environment[name]!]))
  const found = names.map((name) => `${name}=${variables[name]}`).join('\n') || 'none set'
  return { title: 'Environment', checks: [ok('environment', found, { variables }), ...limits(environment)] }
}

function limits(environment: NodeJS.ProcessEnv): Check[] {
  try {
    memoryLimits(environment)
    return []
  } catch (error) {
    if (!CkptError.is(error)) throw error
    return [warn('environment.limits', error.message, 'correct or unset it: updates refuse to start with it')]
  }
}
