/** Repeated measurements of one quantity: raw samples are kept. */
export interface Samples {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly samples: readonly number[]
}

/** Returns median, minimum and maximum of at least one sample, in the unit of the samples. */
export function summarize(samples: readonly number[]): Samples {
  const sorted = [...samples].sort((a, b) => a - b)
  const middle = sorted.length / 2
  const median = sorted.length % 2 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2
  return { median, min: sorted[0]!, max: sorted.at(-1)!, samples }
}

/** Measures this many times, one after the other. */
export async function timesOf(count: number, measure: () => Promise<number>): Promise<Samples> {
  const samples: number[] = []
  for (let i = 0; i < count; i++) samples.push(await measure())
  return summarize(samples)
}
