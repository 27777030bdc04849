import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)
const TIMEOUT_MS = 15_000
const MIB = 2 ** 20

/** Output of nvidia-smi; undefined if it is missing or failed. */
export interface SmiOutput {
  readonly topology: string | undefined
  readonly memory: string | undefined
}

/**
 * Asks nvidia-smi for the links and the free memory, which the driver's own interface does not report without a context on each
 * GPU.
 */
export async function askNvidiaSmi(): Promise<SmiOutput> {
  const [topology, memory] = await Promise.all([
    output(['topo', '-m']),
    output(['--query-gpu=uuid,memory.free', '--format=csv,noheader,nounits']),
  ])
  return { topology, memory }
}

async function output(args: string[]): Promise<string | undefined> {
  return run('nvidia-smi', args, { timeout: TIMEOUT_MS }).then(
    ({ stdout }) => stdout,
    () => undefined,
  )
}

/** Free bytes by GPU UUID. */
export function parseFree(text: string | undefined): Map<string, number> {
  const rows = (text ?? '').matchAll(/^(GPU-[0-9a-f-]+),\s*(\d+)\s*$/gm)
  return new Map([...rows].map(([, uuid, mebibytes]) => [uuid!, Number(mebibytes) * MIB]))
}

/** The matrix of `nvidia-smi topo -m`: link (NV18, PIX, PXB, PHB, NODE, SYS) by the two GPUs' numbers. */
export function parseTopology(text: string | undefined): Map<number, Map<number, string>> {
  // The terminal's underlining of the header row.
  // eslint-disable-next-line no-control-regex -- that is what these sequences begin with
  const lines = (text ?? '').replace(/\x1b\[[0-9;]*m/g, '').split('\n')
  const columns = lines[0]?.split('\t').map((cell) => /^\s*GPU(\d+)\s*$/.exec(cell)?.[1]) ?? []
  const rows = lines.slice(1).flatMap((line) => {
    const cells = line.split('\t').map((cell) => cell.trim())
    const row = /^GPU(\d+)$/.exec(cells[0] ?? '')?.[1]
    if (row === undefined) return []
    const links = columns.flatMap((column, index) =>
      column === undefined || cells[index] === 'X' ? [] : [[Number(column), cells[index] ?? ''] as const],
    )
    return [[Number(row), new Map(links)] as const]
  })
  return new Map(rows)
}
