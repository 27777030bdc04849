/** Figures of one guest that can be compared with each other. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { sh } from './report.ts'

const MIB = 2 ** 20

/** Bandwidth that perftest measures on the same device, in MB/s (10^6 bytes). */
export async function ibReadBandwidth(iterations: number): Promise<number> {
  const flags = ['-d', 'rxe0', '-x', '1', '-s', String(MIB), '-n', String(iterations), '-F', '--report_gbits']
  const server = spawn('ib_read_bw', flags, { stdio: 'ignore' })
  try {
    await new Promise((resolve) => setTimeout(resolve, 700))
    const output = sh(`ib_read_bw ${flags.join(' ')} 10.0.0.1`)
    const average = /^\s*\d+\s+\d+\s+[\d.]+\s+([\d.]+)/m.exec(output)?.[1]
    if (average === undefined) throw new Error(`ib_read_bw printed no figure: ${output}`)
    return (Number(average) * 1000) / 8
  } finally {
    if (server.exitCode === null) {
      server.kill('SIGKILL')
      await once(server, 'exit')
    }
  }
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!
}

export function list(values: readonly number[]): string {
  return values.map((value) => value.toFixed(0)).join(' / ')
}
