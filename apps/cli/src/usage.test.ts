import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { run } from './run.ts'

const HERE = mkdtempSync(join(tmpdir(), 'ckpt-usage-test-'))
const FILE = join(HERE, 'model.safetensors')
const ENGINE = ['--engine', 'control=/run/{rank}.sock']
const UPDATE = ['update', FILE, ...ENGINE]
const JOIN = ['join', '--metas', FILE, ...ENGINE]
const VLLM = ['--engine', 'vllm=http://127.0.0.1:8000']
const HTTPS = ['--engine', 'vllm=https://127.0.0.1:8000']
const LAUNCHERS = /^(?:RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_|OMPI_|SLURM_|LWS_|JOB_COMPLETION_INDEX)/

/** Command line, and what the message must contain: the option, and what was expected. */
const MISTAKES: readonly (readonly [line: readonly string[], ...expected: string[]])[] = [
  [['updat'], "unknown command 'updat'", 'update'],
  [['--nonsense'], "unknown option '--nonsense'"],
  [['update', '--nonsense'], "unknown option '--nonsense'"],
  [[...UPDATE, '--strateg', 'auto'], "unknown option '--strateg'", '--strategy'],
  [['update', ...ENGINE], '--checkpoint is missing', 'a directory or safetensors files'],
  [['update', '--checkpoint'], '--checkpoint <path...>', 'argument missing'],
  [['update', join(HERE, 'nothing'), ...ENGINE], `--checkpoint ${HERE}/nothing`, 'no such file or directory'],
  [['update', '--checkpoint', join(HERE, 'nothing'), ...ENGINE], 'no such file or directory'],
  [[...UPDATE, '--checkpoint', FILE], '--checkpoint and the argument are both given', 'expected one of them'],
  [['update', FILE], '--engine is missing', 'vllm=URL', 'sglang=URL', 'control=PATH'],
  [['update', FILE, '--engine'], '--engine <kind=address>', 'argument missing'],
  [['update', FILE, '--engine', 'vllm'], '--engine', 'expected vllm=URL'],
  [['update', FILE, '--engine', 'vllm='], '--engine', 'expected vllm=URL'],
  [['update', FILE, '--engine', 'tgi=http://a:1'], '--engine', 'expected vllm=URL'],
  [['update', FILE, '--engine', 'http://a:1'], '--engine', 'expected vllm=URL'],
  [['update', FILE, '--engine', 'vllm=localhost:8000'], '--engine', 'begins with http:// or https://'],
  [['update', FILE, '--engine', 'vllm=ftp://a:1'], '--engine', 'begins with http:// or https://'],
  [['update', FILE, '--engine', 'sglang=a:1'], '--engine', 'expected sglang= with a URL'],
  [['update', FILE, '--engine', 'checkpoint-engine=a'], '--engine', 'expected checkpoint-engine= with a URL'],
  [['update', FILE, '--engine', 'control=http://a:1'], '--engine', 'path of a unix socket'],
  [
    ['update', FILE, '--engine', 'vllm=http://{host}:8000'],
    '--engine',
    'unknown placeholder {host}',
    '{rank}, {local_rank}, {node}',
  ],
  [['update', FILE, '--engine', 'control=/run/{Rank}.sock'], 'unknown placeholder {Rank}'],
  [['update', FILE, '--engine', 'vllm=http://a:800{instance}'], '{instance}', '--parallel-size'],
  [[...UPDATE, '--engine-control', '/run/a.sock'], '--engine and --engine-control are both given'],
  [['update', FILE, '--engine', 'control=/run/a.sock', '--nproc', '2'], '2 ranks need a socket each', '{rank} or {local_rank}'],
  [['update', FILE, '--engine-control', '/run/a.sock', '--nproc', '2'], '2 ranks need a socket each'],
  [[...UPDATE, '--parallel-size', '1'], '--parallel-size', 'leave it out'],
  [['update', FILE, ...VLLM, '--parallel-size', '3', '--nproc', '2'], '--parallel-size 3', 'divisor of the number of ranks, 2'],
  [['update', FILE, ...VLLM, '--parallel-size', '0'], '--parallel-size', 'a whole number of at least 1'],
  [['update', FILE, ...VLLM, '--parallel-size', 'two'], '--parallel-size', 'a whole number of at least 1'],
  [[...UPDATE, '--device', 'gpu'], '--device', 'auto, cuda, host'],
  [[...UPDATE, '--strategy', 'fast'], '--strategy', 'auto, broadcast, direct, p2p'],
  [[...UPDATE, '--verify', 'all'], '--verify', 'bytes, sources, none'],
  [[...UPDATE, '--nproc', '0'], '--nproc', 'a whole number of at least 1'],
  [[...UPDATE, '--nproc', '1.5'], '--nproc', 'a whole number of at least 1'],
  [[...UPDATE, '--nproc', '-1'], '--nproc', 'a whole number of at least 1'],
  [[...UPDATE, '--timeout', '0'], '--timeout', 'a whole number of at least 1'],
  [[...UPDATE, '--timeout', '10s'], '--timeout', 'a whole number of at least 1'],
  [['serve', '--tls-cert', FILE], '--tls-key is missing', 'certificate and key together'],
  [['serve', '--tls-key', FILE], '--tls-cert is missing', 'certificate and key together'],
  [[...UPDATE, '--retry', 'x'], '--retry', 'a whole number of at least 0'],
  [[...UPDATE, '--metrics-port', '0'], '--metrics-port', 'a whole number of at least 1'],
  [[...UPDATE, '--ring-size', '1 potato'], '--ring-size', 'a size such as 64MiB'],
  [[...UPDATE, '--ring-size', '0'], '--ring-size', 'a size above zero'],
  [[...UPDATE, '--bucket-size', '-1'], '--bucket-size', 'a size such as 64MiB'],
  [['update', ...ENGINE, '--from', '/run/trainer.sock'], '--from', 'expected trainer=SOCKET'],
  [['update', ...ENGINE, '--from', 'trainer='], '--from', 'expected trainer=SOCKET'],
  [[...UPDATE, '--from', 'trainer=/run/t.sock'], '--from and a checkpoint are both given'],
  [['update', ...ENGINE, '--from', 'trainer=/run/t.sock', '--nproc', '2'], '2 ranks need a trainer', '{rank}'],
  [['update', ...ENGINE, '--from', 'trainer=/run/{gpu}.sock', '--nproc', '2'], '--from', 'unknown placeholder {gpu}'],
  [['join', ...ENGINE], '--metas and --coordinator are missing', 'expected one of them'],
  [[...JOIN, '--coordinator', 'tcp://a:1'], '--metas and --coordinator are both given'],
  [[...JOIN, '--hold'], '--hold requires --keep'],
  [[...JOIN, '--publish-metas'], '--publish-metas requires --keep'],
  [[...JOIN, '--save-metas', 'x'], '--save-metas requires --keep'],
  [[...JOIN, '--strategy', 'broadcast'], '--strategy', 'auto, p2p'],
  [['join', '--metas', FILE], '--engine is missing'],
  [[...JOIN, 'extra'], "too many arguments for 'join'"],
  [['serve', '--engine', 'vllm=a'], '--engine', 'begins with http:// or https://'],
  [['serve', '--engine', 'control=/run/a.sock', '--nproc', '2'], '2 ranks need a socket each'],
  [['serve', '--port', 'http'], '--port', 'a whole number of at least 1'],
  [['serve', '--port', '99999'], '--port', 'a port from 1 to 65535'],
  [['update', FILE, ...VLLM, '--api-key-file', join(HERE, 'no-key')], '--api-key-file', 'ENOENT', 'expected a file'],
  [['update', FILE, ...VLLM, '--api-key', 'two words'], '--api-key', 'printable characters without spaces'],
  [['update', FILE, ...VLLM, '--api-key', 'k', '--api-key-file', FILE], '--api-key and --api-key-file are both given'],
  [[...UPDATE, '--api-key-file', FILE], '--api-key-file', 'control sockets take no key'],
  [['update', FILE, ...VLLM, '--engine-tls-ca', FILE], '--engine-tls-ca', 'expected a URL that begins with https://'],
  [['update', FILE, ...HTTPS, '--engine-tls-ca', FILE], '--engine-tls-ca', 'expected a PEM file'],
  [['update', FILE, ...HTTPS, '--engine-tls-cert', FILE], '--engine-tls-cert requires --engine-tls-key', 'expected both'],
  [['update', FILE, ...HTTPS, '--engine-tls-key', FILE], '--engine-tls-key requires --engine-tls-cert', 'expected both'],
  [[...UPDATE, '--config', join(HERE, 'no.yaml')], '--config', 'cannot be read'],
  [['config', '--check', join(HERE, 'no.yaml')], 'cannot be read', 'ENOENT'],
  [['watch', ...ENGINE], "missing required argument 'directory'"],
  [['watch', join(HERE, 'nothing'), ...ENGINE], '<directory>', 'no such directory'],
  [['watch', FILE, ...ENGINE], '<directory>', 'expected one that holds a directory for each version'],
  [['watch', 's3://bucket/run', ...ENGINE], '<directory> s3://bucket/run', 'expected a directory of this machine'],
  [['watch', HERE], '--engine is missing'],
  [['watch', HERE, ...ENGINE, '--interval', '0'], '--interval', 'a whole number of at least 1'],
  [['watch', HERE, ...ENGINE, '--ready-file', 'a/b'], '--ready-file', 'expected a name'],
  [['completion', 'powershell'], "'shell'", 'bash, zsh, fish'],
  [['completion'], "missing required argument 'shell'"],
  [['compat', '--backend', 'tpu'], '--backend', 'cuda, stand-in'],
  [['launch', '--nproc', '1', '--nnodes', '2', '--', 'true'], '--master-port is missing', '--nnodes 2'],
  [['launch', '--nproc', '1', '--node-rank', '1', '--', 'true'], '--node-rank 1', 'below --nnodes, 1'],
  [['plan', '--gpus', '5000'], '--gpus 5000', '4096 at most'],
  [['plan', '--gpus', '10', '--tp', '4'], '--gpus 10', 'a multiple of --tp, 4'],
  [['plan', '--model', 'gpt-2'], '--model', 'kimi-k2'],
  [['plan', '--topology', 'abacus'], '--topology abacus', 'expected GPU-NxRATEg'],
  [['status'], '--engine-control <path>', 'not specified'],
  [['serve', '--backend', 'tpu'], '--backend', 'auto, host, cuda'],
  [['launch', '--nproc', 'two', '--', 'true'], '--nproc', 'a whole number of at least 1'],
  [['launch', '--', 'true'], '--nproc <n>', 'not specified'],
  [['launch', '--nproc', '1'], "missing required argument 'command'"],
  [['plan', '--strategy', 'fast'], '--strategy', 'broadcast, p2p, direct, all'],
]

let written: string
let environment: NodeJS.ProcessEnv
beforeAll(() => writeFileSync(FILE, ''))
afterAll(() => rmSync(HERE, { recursive: true }))
beforeEach(() => {
  environment = { ...process.env }
  for (const name of Object.keys(process.env)) if (LAUNCHERS.test(name)) Reflect.deleteProperty(process.env, name)
  written = ''
  const keep = (text: string | Uint8Array) => ((written += String(text)), true)
  vi.spyOn(process.stderr, 'write').mockImplementation(keep)
  vi.spyOn(process.stdout, 'write').mockImplementation(keep)
})
afterEach(() => {
  vi.restoreAllMocks()
  process.env = environment
  process.exitCode = undefined
})

/** Runs a command line in this process; returns its status and what it wrote. */
async function outcome(line: readonly string[]) {
  await run(line)
  return { status: process.exitCode, lines: written.trimEnd().split('\n') }
}

const leftovers = () =>
  [...readdirSync('/dev/shm'), ...readdirSync(tmpdir())].filter((name) => name.includes(`-${process.pid}-`))

describe('a mistake in the command line', () => {
  it.for(MISTAKES)('$0 is told in one line, with status 2, before anything is made', async ([line, ...expected]) => {
    const { status, lines } = await outcome(line)
    expect({ status, count: lines.length }).toEqual({ status: 2, count: 1 })
    expect(lines[0]).toMatch(/^ckpt: /)
    for (const part of expected) expect(lines[0]).toContain(part)
    expect(leftovers()).toEqual([])
  })

  it.each<[NodeJS.ProcessEnv, ...string[]]>([
    [
      { OMPI_COMM_WORLD_RANK: '0', OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_LOCAL_SIZE: '2' },
      '--nproc 4',
      'mpirun has started 2 ranks',
    ],
    [{ JOB_COMPLETION_INDEX: '0', WORLD_SIZE: '2' }, 'MASTER_ADDR is missing', 'machine of rank 0'],
    [{ LWS_WORKER_INDEX: '3', LWS_GROUP_SIZE: '3' }, 'LeaderWorkerSet started this process as rank 3'],
  ])('that contradicts the launcher of %j is told', async (env, ...expected) => {
    Object.assign(process.env, env)
    const { status, lines } = await outcome([...UPDATE, '--nproc', '4'])
    expect(status).toBeGreaterThan(0)
    expect(lines).toHaveLength(1)
    for (const part of expected) expect(lines[0]).toContain(part)
  })
})

describe('what is no mistake', () => {
  it('prints the version', async () => {
    expect(await outcome(['--version'])).toEqual({ status: 0, lines: [expect.stringMatching(/^\d+\.\d+\.\d+/)] })
  })

  it('prints the help of a command, with its options', async () => {
    const { status, lines } = await outcome(['update', '--help'])
    expect(status).toBe(0)
    for (const option of ['--engine', '--device', '--strategy', '--parallel-size', '--from'])
      expect(lines.join('\n')).toContain(option)
  })
})
