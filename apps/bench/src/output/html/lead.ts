import { isRight, referenceRuns, type BenchResult, type PeerRun, type Run } from '../../result.ts'
import { comparisonOf } from '../comparison.ts'
import { gigabytes, seconds } from '../units.ts'
import { html, type Markup } from './markup.ts'

/** A run with the fastest peer result for the same update. */
export interface Lead {
  readonly run: Run
  readonly peer?: PeerRun
}

/** Returns other systems' updates that match runs of a model. */
export function peerUpdates(peers: readonly PeerRun[], model: string): PeerRun[] {
  return peers.filter((peer) => peer.model === model && peer.ratioToLimit !== undefined)
}

/** Returns the page's main result: the run closest to its limit, with the peer's best result. */
export function leadOf({ runs, peers }: BenchResult): Lead | undefined {
  const [run] = [...runs].sort((a, b) => comparisonOf(a).ratio - comparisonOf(b).ratio)
  if (run === undefined) return undefined
  const [peer] = peerUpdates(peers, run.model).sort((a, b) => a.peerMs.median - b.peerMs.median)
  return { run, ...(peer && { peer }) }
}

/** Describes how close the other runs were to their limits. */
function range(runs: readonly Run[]): string {
  const ratios = runs.map((run) => comparisonOf(run).ratio.toFixed(2)).sort((a, b) => Number(a) - Number(b))
  return ratios[0] === ratios.at(-1) ? '' : `; all runs: ${ratios[0]} to ${ratios.at(-1)}`
}

/** Shows the main figures in large type. */
export function lead(result: BenchResult): Markup | undefined {
  const found = leadOf(result)
  if (found === undefined) return undefined
  const { run, peer } = found
  const { updateMs, limitMs, ratio } = comparisonOf(run)
  const where = run.backend === 'cuda' ? 'GPU' : 'rank'
  const figures: [string, string][] = [
    [seconds(updateMs), `for ${gigabytes(run.bytes)} of ${run.title} to ${run.ranks} ${where}${run.ranks === 1 ? '' : 's'}`],
    [
      `${ratio.toFixed(2)} ×`,
      `the least time that this machine could take: ${seconds(limitMs)}, measured in the same run${range(result.runs)}`,
    ],
  ]
  if (peer !== undefined) {
    const times = peer.peerMs.median / run.updateMs.median
    figures.push([`${times.toFixed(1)} ×`, `as fast as ${peer.peer} ${peer.version} at its best, same run, same files`])
  }
  const right = result.runs.filter(isRight).length
  const real = referenceRuns(result).length === 0
  if (right < result.runs.length) figures.push([`${right} of ${result.runs.length}`, 'runs gave the engines the files’ bytes'])
  else if (real) figures.push(['every answer', 'equal to that of a server that loaded the same checkpoint from disk'])
  else figures.push(['every byte', 'of every run compared with the files'])
  return html`<ul class="lead">
    ${figures.map(([figure, text]) => html`<li><b>${figure}</b><span>${text}</span></li>`)}
  </ul>`
}
