/**
 * `npm run bench:tcp`: measures the cost of protecting one-sided TCP reads on this machine. Reads the same memory over loopback
 * with each protection in alternation, both ends in this process, and compares the reads of each round.
 */
import { cpus } from 'node:os'
import { type HostMemory, type RegionDescriptor, ContiguousCopies } from '@ckpt/contract'
import { createHost, createTcpEndpoint, type TcpEndpoint, type TcpPeer, type TcpProtection } from '@ckpt/transport'
import { Command, InvalidArgumentError } from 'commander'
import { summarize, type Samples } from './statistics.ts'

const SECRET = 'for measurements: not a secret'
const SEED = 99n
const KINDS: readonly TcpProtection[] = ['none', 'authenticated', 'encrypted']
const TIMEOUT_MS = 60_000
const GIB = 2 ** 30

/** Measurement of one read. */
interface Turn {
  readonly bytesPerSecond: number
  /** Processor time of all threads, so at both ends. */
  readonly cpuSecondsPerByte: number
}

interface Options {
  readonly gib: number
  readonly streams: number[]
  readonly rounds: number
  readonly json: boolean
}

/** Cost of a protection over all rounds of one number of connections. */
interface Cost {
  readonly connections: number
  readonly protection: TcpProtection
  /** Protection of bytes of regions: the cipher, and the library with its version that computes it. */
  readonly cipher: string | undefined
  readonly gigabytesPerSecond: Samples
  readonly cpuSecondsPerGigabyte: Samples
  /** Medians of the rounds' ratios to the read without protection of the same round. */
  readonly rateOfNone: number
  readonly cpuOfNone: number
}

function number(text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new InvalidArgumentError('expected a number above 0')
  return value
}

const { gib, streams, rounds, json } = new Command('bench:tcp')
  .description('Measures the cost of protecting one-sided TCP reads on loopback, in alternating reads.')
  .option('--gib <n>', 'GiB of each read', number, 2)
  .option(
    '--streams <n...>',
    'connections to read over, one table for each',
    (text, all: number[]) => [...all, number(text)],
    [],
  )
  .option('--rounds <n>', 'rounds, each with one read of every protection', number, 7)
  .option('--json', 'print one JSON object instead of tables', false)
  .parse()
  .opts<Options>()

const host = createHost()
const bytes = Math.round(gib * GIB)
const source = await host.allocate({ bytes, lock: false })
const target = await host.allocate({ bytes, lock: false })
// Also makes both present, so that no read pays for new pages.
for (const [i, memory] of [source, target].entries()) await host.fill(memory, { seed: SEED + BigInt(i) })
const serving = createTcpEndpoint({ listen: ['127.0.0.1:0'], secret: SECRET, protection: 'none' })
const { descriptor: region } = await serving.register(source)

const machine = { cores: cpus().length, processor: cpus()[0]?.model ?? 'unknown', node: process.version }
const print = (text: string): unknown => json || process.stdout.write(`${text}\n`)
print(
  `${machine.cores} cores (${machine.processor}), Node ${machine.node}, ` +
    `reads of ${(bytes / 1e9).toFixed(2)} GB, ${rounds} alternating rounds, medians`,
)
const costs: Cost[] = []
for (const count of streams.length > 0 ? streams : [4, 1]) costs.push(...(await compare(count)))
await checkBytes(target)
if (json) process.stdout.write(`${JSON.stringify({ ...machine, bytes, rounds, costs })}\n`)
await serving.close()
source.close()
target.close()

/** Compares the protections over this many connections, and prints a table. */
async function compare(count: number): Promise<Cost[]> {
  const readers: TcpEndpoint[] = []
  const peers: TcpPeer[] = []
  for (const protection of KINDS) {
    const reader = createTcpEndpoint({ listen: ['127.0.0.1:0'], secret: SECRET, protection, streams: count })
    readers.push(reader)
    peers.push(await reader.connect(serving.descriptor, { secret: SECRET, timeoutMs: TIMEOUT_MS }))
  }
  const turns = KINDS.map((): Turn[] => [])
  // The first round does not count, because sockets' buffers grow to their size in it.
  for (let round = 0; round <= rounds; round++) {
    for (let i = 0; i < KINDS.length; i++) {
      // Each round begins with a different one.
      const kind = (i + round) % KINDS.length
      const turn = await read(peers[kind]!, region, target)
      if (round > 0) turns[kind]!.push(turn)
    }
  }
  const ciphers = peers.map((peer) => peer.cipher)
  await Promise.all(readers.map((reader) => reader.close()))
  const all = KINDS.map((name, kind) => costOf(count, name, ciphers[kind], turns[kind]!, turns[0]!))
  print(`\n${count} connection${count === 1 ? '' : 's'}`)
  print('protection          GB/s (min–max)   of none   CPU s/GB, both ends   of none   bytes of regions')
  for (const cost of all) print(row(cost))
  return all
}

async function read(peer: TcpPeer, from: RegionDescriptor, into: HostMemory): Promise<Turn> {
  const transfers = ContiguousCopies.from([{ source: 0, sourceOffset: 0, destination: 0, destinationOffset: 0, bytes }])
  const used = process.cpuUsage()
  const started = performance.now()
  await peer.read({ regions: [from], memories: [into], transfers, timeoutMs: TIMEOUT_MS })
  const seconds = (performance.now() - started) / 1000
  const { user, system } = process.cpuUsage(used)
  return { bytesPerSecond: bytes / seconds, cpuSecondsPerByte: (user + system) / 1e6 / bytes }
}

function costOf(
  connections: number,
  protection: TcpProtection,
  cipher: string | undefined,
  turns: readonly Turn[],
  trusted: readonly Turn[],
): Cost {
  return {
    connections,
    protection,
    cipher,
    gigabytesPerSecond: summarize(turns.map(({ bytesPerSecond }) => bytesPerSecond / 1e9)),
    cpuSecondsPerGigabyte: summarize(turns.map(({ cpuSecondsPerByte }) => cpuSecondsPerByte * 1e9)),
    rateOfNone: summarize(turns.map((turn, i) => turn.bytesPerSecond / trusted[i]!.bytesPerSecond)).median,
    cpuOfNone: summarize(turns.map((turn, i) => turn.cpuSecondsPerByte / trusted[i]!.cpuSecondsPerByte)).median,
  }
}

function row({
  protection,
  cipher,
  gigabytesPerSecond: rate,
  cpuSecondsPerGigabyte: cpu,
  rateOfNone,
  cpuOfNone,
}: Cost): string {
  const range = `${rate.median.toFixed(2)} (${rate.min.toFixed(2)}–${rate.max.toFixed(2)})`
  return [
    protection.padEnd(16),
    range.padStart(18),
    `${(100 * rateOfNone).toFixed(0)} %`.padStart(10),
    cpu.median.toFixed(3).padStart(22),
    `${(100 * cpuOfNone).toFixed(0)} %`.padStart(10),
    `   ${cipher ?? 'plain'}`,
  ].join('')
}

/** Checks that the last read delivered the served bytes. */
async function checkBytes(memory: HostMemory): Promise<void> {
  const ranges = [{ memory: 0, offset: 0, bytes }]
  const [got] = await host.digest([memory], ranges)
  const [expected] = await host.digest([source], ranges)
  if (got !== expected) throw new Error(`the bytes read have digest ${got}, the bytes served ${expected}`)
}
