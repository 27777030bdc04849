/**
 * `npm run bench:wires`: the wires between two processes side by side: our TCP endpoint, UCX (each library given by `--ucx`), and
 * iperf3. On loopback or, with `--namespaces` (as root), between two network namespaces. Rounds alternate, so that whatever else
 * the machine does meets all of them.
 */
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism, cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Command, InvalidArgumentError } from 'commander'
import { summarize } from './statistics.ts'
import type { WireEnd, WirePoint, WireRequest } from './wire.child.ts'

const CHILD = fileURLToPath(new URL('./wire.child.ts', import.meta.url))
const PORT = 15_201
const GIB = 2 ** 30

/** Something that moves bytes, and its rate in GB/s each time that it is asked. */
interface Lane {
  readonly name: string
  readonly turn: () => Promise<number>
}

function positive(text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new InvalidArgumentError('expected a number above 0')
  return value
}

const { gib, rounds, ucx, namespaces } = new Command('bench:wires')
  .description('Measures TCP, UCX and iperf3 between two processes, in alternating rounds.')
  .option('--gib <n>', 'GiB of each transfer', positive, 1)
  .option('--rounds <n>', 'rounds', positive, 5)
  .option('--ucx <folder...>', "directories of libucp.so.0 (default: the system's)", (one, all: string[]) => [...all, one], [])
  .option('--namespaces', 'between two network namespaces, joined by a veth pair', false)
  .parse()
  .opts<{ gib: number; rounds: number; ucx: string[]; namespaces: boolean }>()

const bytes = Math.round(gib * GIB)
const ended: (() => void)[] = []
process.on('exit', () => ended.reverse().forEach((end) => end()))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1))
const places = namespaces ? connectNamespaces() : [[], []]
const [ownAddress, peerAddress] = namespaces ? ['10.213.7.1', '10.213.7.2'] : ['127.0.0.1', '127.0.0.1']

const lanes: Lane[] = [...(await endpoints('tcp', 'TCP endpoint, read', undefined))]
for (const library of ucx.length > 0 ? ucx : ['']) {
  lanes.push(...(await endpoints('ucx', 'UCX', library).catch((error: unknown) => skipped(`UCX ${library}`, error))))
}
lanes.push(...[1, 2].map((streams): Lane => ({ name: `iperf3 -P ${streams}`, turn: () => iperf3(streams) })))

const rates = lanes.map((): number[] => [])
for (let round = 0; round <= rounds; round++) {
  for (const [index, { turn }] of lanes.entries()) {
    const rate = await turn()
    // Sockets' buffers grow to their size in the first round.
    if (round > 0) rates[index]!.push(rate)
  }
}
console.log(
  `${availableParallelism()} cores (${cpus()[0]?.model ?? 'unknown'}), ${namespaces ? 'two network namespaces' : 'loopback'}, ` +
    `transfers of ${(bytes / 1e9).toFixed(2)} GB, ${rounds} alternating rounds, medians\n`,
)
for (const [index, { name }] of lanes.entries()) {
  const { median, min, max } = summarize(rates[index]!)
  console.log(`${name.padEnd(44)} ${median.toFixed(2)} GB/s (${min.toFixed(2)}–${max.toFixed(2)})`)
}
process.exit(0)

function skipped(name: string, error: unknown): [] {
  console.log(`skipped: ${name}: ${error instanceof Error ? error.message : String(error)}`)
  return []
}

/** Starts both ends of a wire, checks one read, and returns what they do. */
async function endpoints(wire: WireEnd['wire'], name: string, library: string | undefined): Promise<Lane[]> {
  const env = wire === 'ucx' ? { CKPT_UCX_LIBRARY: library ?? '', UCX_TLS: process.env['UCX_TLS'] ?? 'tcp' } : {}
  const [owner, point] = await start(1, { wire, bytes, address: peerAddress }, env)
  const [reader] = await start(0, { wire, bytes, address: ownAddress }, env)
  const transports = (await ask(reader, { connect: point })) as string[]
  await ask(reader, { move: 'read' })
  const [got, expected] = [await ask(reader, { digest: true }), await ask(owner, { digest: true })]
  if (got !== expected) throw new Error(`the bytes read over ${name} have digest ${String(got)}, not ${String(expected)}`)
  const lane = (what: string, move: 'read' | 'write'): Lane => ({
    name: what,
    turn: async () => (await ask(reader, { move })) as number,
  })
  if (wire === 'tcp') return [lane(name, 'read')]
  const version = point.endpoint.details?.['version'] as string
  return [
    lane(`UCX ${version} read (${transports.join(', ')})`, 'read'),
    lane(`UCX ${version} write (${transports.join(', ')})`, 'write'),
  ]
}

async function start(place: number, end: WireEnd, env: NodeJS.ProcessEnv): Promise<[ChildProcess, WirePoint]> {
  const node = [process.execPath, '--import', 'tsx', '--conditions=@ckpt/source', CHILD, JSON.stringify(end)]
  const [program, ...args] = [...places[place]!, ...node]
  const stdio = ['ignore', 'inherit', 'inherit', 'ipc'] as const
  const child = spawn(program!, args, { stdio: [...stdio], env: { ...process.env, ...env } })
  ended.push(() => child.kill('SIGKILL'))
  const first = await Promise.race([once(child, 'message'), once(child, 'exit').then(() => undefined)])
  if (first === undefined) throw new Error('a process of the measurement has ended')
  return [child, first[0] as WirePoint]
}

async function ask(child: ChildProcess, request: WireRequest): Promise<unknown> {
  child.send(request)
  const [answer] = (await once(child, 'message')) as [{ value: unknown } | { error: string }]
  if ('error' in answer) throw new Error(answer.error)
  return answer.value
}

/** Rate of as many bytes as a transfer of ours has. */
async function iperf3(streams: number): Promise<number> {
  const [program, ...args] = [...places[1]!, 'iperf3', '-s', '-1', '-B', peerAddress, '-p', String(PORT)]
  const server = spawn(program, args, { stdio: 'ignore' })
  ended.push(() => server.kill('SIGKILL'))
  await sleep(500)
  const client = [...places[0]!, 'iperf3', '-c', peerAddress, '-p', String(PORT), '-P', String(streams)]
  const flags = ['-n', String(Math.round(bytes / streams)), '-J', '-R']
  const { stdout } = await promisify(execFile)(client[0]!, [...client.slice(1), ...flags], { maxBuffer: 1 << 24 })
  const { end } = JSON.parse(stdout) as { end: { sum_received: { bits_per_second: number } } }
  return end.sum_received.bits_per_second / 8e9
}

/** Creates two network namespaces that reach each other. @returns what runs a command in each */
function connectNamespaces(): string[][] {
  const names = [0, 1].map((side) => `ckpt-wires-${process.pid}-${side}`)
  const ip = (...args: string[]): unknown => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] })
  for (const name of names) {
    ip('netns', 'add', name)
    ended.push(() => ip('netns', 'del', name))
    ip('-n', name, 'link', 'set', 'lo', 'up')
  }
  ip('link', 'add', 'wire0', 'netns', names[0]!, 'type', 'veth', 'peer', 'name', 'wire1', 'netns', names[1]!)
  for (const [side, name] of names.entries()) {
    ip('-n', name, 'addr', 'add', `10.213.7.${side + 1}/24`, 'dev', `wire${side}`)
    ip('-n', name, 'link', 'set', `wire${side}`, 'up')
  }
  return names.map((name) => ['ip', 'netns', 'exec', name])
}
