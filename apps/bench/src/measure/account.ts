import type { UpdateReport } from '@ckpt/core'
import type { DirectAccount } from '../result.ts'

/** Adds up the byte counts of one direct update over all its ranks. */
export function account(reports: readonly UpdateReport[]): DirectAccount {
  const sum = (field: 'needed' | 'h2d' | 'forwarded') =>
    reports.reduce((total, { direct }) => total + (direct?.bytes?.[field] ?? 0), 0)
  const { direct } = reports[0]!
  const most = Math.max(...reports.map((report) => report.direct?.bytes?.h2d ?? 0))
  return {
    neededBytes: sum('needed'),
    uniqueBytes: direct?.bytes?.nodeNeeded ?? 0,
    h2dBytes: sum('h2d'),
    h2dMostBytes: most,
    forwardedBytes: sum('forwarded'),
    opaqueBytes: direct?.bytes?.opaque ?? 0,
    opaqueTensors: (direct?.opaque ?? []).map(({ name, reason }) => `${name}: ${reason}`).slice(0, 20),
    routes: reports.reduce((total, report) => total + (report.direct?.routes ?? 0), 0),
    copies: reports.reduce((total, report) => total + (report.direct?.copies ?? 0), 0),
    how: direct?.how ?? '',
  }
}
