import { statfsSync, statSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { UpdateStrategy } from '@ckpt/contract'
import { auto, broadcast, direct } from '@ckpt/core'
import { p2p } from '@ckpt/p2p'

export const STRATEGIES = ['auto', 'broadcast', 'direct', 'p2p'] as const
export type StrategyChoice = (typeof STRATEGIES)[number]

/** Returns the chosen strategy for all ranks of a world. */
export function strategyOf(choice: StrategyChoice, worldSize: number): UpdateStrategy {
  if (choice === 'auto') return auto()
  if (choice === 'broadcast') return broadcast()
  if (choice === 'direct') return direct({ required: true })
  return p2p({ ranks: Array.from({ length: worldSize }, (_, rank) => rank) })
}

/**
 * Returns true if ranks of this machine should hold a checkpoint in memory that they can map: direct updates over several ranks
 * need it. `auto` shares only if /dev/shm has twice the checkpoint's size free.
 */
export function sharesMemory(choice: StrategyChoice, localWorldSize: number, files: readonly string[]): boolean {
  if (localWorldSize === 1) return false
  if (choice !== 'auto') return choice === 'direct'
  try {
    const { bavail, bsize } = statfsSync('/dev/shm')
    return files.length > 0 && bavail * bsize > 2 * files.reduce((sum, path) => sum + bytesOf(path), 0)
  } catch {
    return false // registering reports a missing file
  }
}

function bytesOf(path: string): number {
  const stats = statSync(path)
  if (!stats.isDirectory()) return stats.size
  const files = readdirSync(path).filter((name) => name.endsWith('.safetensors'))
  return files.reduce((sum, name) => sum + statSync(join(path, name)).size, 0)
}
