import type { EngineRun, HowBytes } from '../result.ts'
import { gigabytes, seconds } from './units.ts'

/** Names the ways that carried bytes, with their share. */
export function howText(how: HowBytes | undefined): string {
  if (how === undefined) return ''
  const ways = Object.entries(how).filter(([, bytes]) => bytes > 0)
  return ways.map(([way, bytes]) => `${way} ${gigabytes(bytes as number)}`).join(', ')
}

/** Describes the longest gap between the tokens of a stream next to the updates in which it was measured. */
export function pauseText({ pause }: EngineRun): string {
  return pause === undefined ? '–' : `${seconds(pause.longestTokenGapMs)} in updates of ${seconds(pause.updateMs.median)}`
}
