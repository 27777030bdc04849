import { cpus, release, totalmem, type as osType } from 'node:os'
import type { Machine } from './result.ts'

/** Describes the machine of the bench. */
export function machine(): Machine {
  const processors = cpus()
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryBytes: totalmem(),
    os: `${osType()} ${release()}`,
    node: process.version,
  }
}
