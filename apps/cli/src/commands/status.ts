import { controlEngine } from '@ckpt/core'
import { CkptError, type WorkerState } from '@ckpt/contract'
import { Option, type Command } from 'commander'
import { parseCount } from '../sizes.ts'

interface StatusOptions {
  readonly engineControl: string
  readonly nproc: number
  readonly timeout: number
  readonly json?: boolean
}

type Row = { readonly rank: number } & (WorkerState | { readonly error: string })

/** Adds `ckpt status`. */
export function addStatus(program: Command): void {
  program
    .command('status')
    .description('print the version of each engine worker and if a failed update left it dirty; fails if one is dirty')
    .requiredOption('--engine-control <path>', "control socket of a rank's engine worker; {rank} is replaced by the rank")
    .addOption(new Option('--nproc <n>', 'engine workers on this machine').argParser(parseCount(1)).default(1))
    .addOption(new Option('--timeout <seconds>', 'time for a worker to answer').argParser(parseCount(1)).default(5))
    .option('--json', 'print JSON')
    .action(async (options: StatusOptions) => {
      const rows = await Promise.all(Array.from({ length: options.nproc }, (_, rank) => ask(options, rank)))
      process.stdout.write(options.json ? `${JSON.stringify({ schema: 1, workers: rows })}\n` : rows.map(line).join(''))
      if (rows.some((row) => 'error' in row || row.dirty) || versions(rows).size > 1) process.exitCode = 1
    })
}

async function ask({ engineControl, timeout }: StatusOptions, rank: number): Promise<Row> {
  const timeoutMs = timeout * 1000
  const engine = controlEngine({ socket: engineControl.replaceAll('{rank}', String(rank)) })
  try {
    const state = await engine.ready({ rank, timeoutMs, signal: AbortSignal.timeout(timeoutMs + 1000) })
    return { rank, version: state?.version ?? null, dirty: state?.dirty ?? false }
  } catch (error) {
    return { rank, error: CkptError.from(error, 'ENGINE_UNREACHABLE').message }
  }
}

function versions(rows: readonly Row[]): Set<string | null> {
  return new Set(rows.flatMap((row) => ('error' in row ? [] : row.version)))
}

function line(row: Row): string {
  if ('error' in row) return `rank ${row.rank}  unreachable  ${row.error}\n`
  const version = row.version === null ? 'no version yet' : `version ${row.version}`
  return `rank ${row.rank}  ${row.dirty ? 'dirty' : 'ok   '}  ${version}${row.dirty ? ': an update failed partway; the next one repairs it' : ''}\n`
}
