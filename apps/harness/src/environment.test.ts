import { execFileSync, spawn, spawnSync, type StdioOptions } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EngineProcess, freePort, generateCheckpoint, type GeneratedCheckpoint, nodeArguments } from '@ckpt/testing'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const TORCHRUN = fileURLToPath(new URL('../../../.venv/bin/torchrun', import.meta.url))
const RANKS = 2
const CKPT = [process.execPath, ...nodeArguments(MAIN)]
const can = (command: string, ...args: string[]) => spawnSync(command, args).status === 0

interface Finished {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a command line and waits for its end. */
function start(line: readonly string[], env: NodeJS.ProcessEnv = {}, stdio: StdioOptions = ['ignore', 'pipe', 'pipe']) {
  // The loader that runs sources here keeps its cache in TMPDIR, which is not what is tested.
  const all = { ...process.env, TSX_DISABLE_CACHE: '1', ...env }
  const child = spawn(line[0]!, line.slice(1), { env: all, stdio, timeout: 150_000, killSignal: 'SIGKILL' })
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const finished: Promise<Finished> = once(child, 'close').then(([status]) => ({
    status: status as number | null,
    stdout,
    stderr,
  }))
  return { child: child, finished }
}

const run = (...args: Parameters<typeof start>) => start(...args).finished

describe('the environment as it is', { timeout: 180_000 }, () => {
  let checkpoint: GeneratedCheckpoint
  let base: string
  /** Directories for engines: one for each concurrent run. */
  let places: string[]
  let engines: EngineProcess[]
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 8 * 2 ** 20, 11n)
    base = mkdtempSync(join(tmpdir(), 'ckpt-env-test-'))
    places = ['a', 'b'].map((name) => join(base, name))
    for (const place of places) mkdirSync(place)
    engines = places.flatMap((directory) =>
      Array.from(
        { length: RANKS },
        (_, tpRank) =>
          new EngineProcess({ kind: 'typescript', directory, checkpoint: checkpoint.directory, tpRank, tpSize: RANKS }),
      ),
    )
    await Promise.all(engines.map((engine) => engine.ready()))
  }, 120_000)
  afterAll(async () => {
    await Promise.all(engines.map(({ process }) => process.stop()))
    rmSync(base, { recursive: true, force: true })
    checkpoint[Symbol.dispose]()
  })

  const update = (place: string, ...more: string[]) => [
    ...[...CKPT, 'update', '--checkpoint', checkpoint.directory],
    ...['--engine-control', join(place, 'engine-typescript-{rank}.sock'), '--timeout', '30', ...more],
  ]
  const both = (...more: string[]) => update(places[0]!, '--nproc', String(RANKS), ...more)
  const updated = ({ status, stdout, stderr }: Finished) => {
    expect(stderr).not.toMatch(/\n {4}at /)
    expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
    expect(stdout).toContain('to 2 engine workers')
  }

  describe('directories', () => {
    const kinds: [string, (path: string) => string][] = [
      ['missing', (path) => path],
      ['empty', () => ''],
      // Below the command's working directory, so that anything that takes it for a directory leaves no files in this
      // repository.
      ['relative', (path) => relative(process.cwd(), path)],
      ['a file', (path) => (writeFileSync(path, ''), path)],
      ['a link to nowhere', (path) => (symlinkSync('/nowhere', path), path)],
      ['too long', (path) => ((path += 'x'.repeat(100)), mkdirSync(path), path)],
      ['not to be written to', () => '/proc/self'],
    ]
    it.each(kinds)('that are %s are done without', async (kind, make) => {
      const path = make(join(base, `env-${kind.replaceAll(' ', '-')}`))
      updated(await run(both(), { XDG_RUNTIME_DIR: path, TMPDIR: path, HOME: path }))
    })

    it('that are read-only, and users without a name, are done without', async ({ skip }) => {
      if (!can('unshare', '--mount', 'mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', '/var/tmp'))
        skip('mount namespaces are not permitted')
      const script = `mount -t tmpfs -o ro tmpfs /var/tmp && mount -t tmpfs -o ro tmpfs /root && : > ${base}/passwd && mount --bind ${base}/passwd /etc/passwd && exec "$@"`
      updated(
        await run(['unshare', '--mount', 'sh', '-c', script, 'sh', ...both()], {
          XDG_RUNTIME_DIR: '/var/tmp',
          TMPDIR: '/var/tmp',
          HOME: '/root',
        }),
      )
    })
  })

  describe('torchrun', () => {
    const torchrun = (place: string, ...how: string[]) => [
      ...[TORCHRUN, ...how, '--nproc-per-node', String(RANKS), '--no-python'],
      ...update(place),
    ]
    const ways: [string, () => Promise<string[]>][] = [
      ['--standalone', () => Promise.resolve(['--standalone'])],
      ['--master-port', async () => ['--master-port', String(await freePort())]],
      [
        'c10d',
        async () => [
          '--rdzv-backend',
          'c10d',
          '--rdzv-endpoint',
          `localhost:${await freePort()}`,
          '--rdzv-id',
          'same',
          '--nnodes',
          '1',
        ],
      ],
    ]
    it.for(ways)('%s: two runs side by side each update their own engines', async ([_, how], { skip }) => {
      if (!existsSync(TORCHRUN)) skip('no torchrun: npm run setup:python')
      const runs = await Promise.all(
        places.map(async (place, index) => run([...torchrun(place, ...(await how())), '--version', `v${index}`])),
      )
      for (const [index, one] of runs.entries()) {
        updated(one)
        expect(one.stdout).toContain(`version v${index}: `)
      }
    })
  })

  it('mpirun: two runs side by side each update their own engines', async ({ skip }) => {
    if (!can('mpirun', '--version')) skip('no mpirun: apt-get install openmpi-bin')
    const env = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' }
    const mpirun = ['mpirun', '--oversubscribe', '--bind-to', 'none', '-n', String(RANKS)]
    const runs = await Promise.all(
      places.map((place, index) => run([...mpirun, ...update(place), '--version', `mpi-${index}`], env)),
    )
    for (const [index, { status, stdout, stderr }] of runs.entries()) {
      expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
      expect(stdout).toContain(`version mpi-${index}: `)
      expect(stdout).toContain('to 2 engine workers')
    }
    expect(await engines[RANKS]!.health()).toMatchObject({ version: 'mpi-1', dirty: false })
  })

  it('without IPv4, ranks meet and update', async ({ skip }) => {
    const script =
      'ip link set lo up && ip -4 addr flush dev lo && ip -6 addr show dev lo | grep -q ::1 && ! ip -4 addr show | grep -q inet && exec "$@"'
    const namespace = ['unshare', '--net', 'sh', '-c', script, 'sh']
    if (!can(namespace[0]!, ...namespace.slice(1), 'true')) skip('network namespaces with IPv6 are not permitted')
    updated(await run([...namespace, ...both()]))
    for (const host of ['::1', 'localhost', '[::1]']) {
      const pair = `for r in 0 1; do RANK=$r WORLD_SIZE=2 MASTER_ADDR='${host}' MASTER_PORT=29777 "$@" & pids="$pids $!"; done; for p in $pids; do wait $p || exit 1; done`
      updated(await run([...namespace, 'sh', '-c', pair, 'sh', ...update(places[0]!)]))
    }
  })

  describe('a reader that is gone', () => {
    it.each(['stdout', 'stderr', 'stdout and stderr'])('from %s changes nothing', async (which) => {
      const fifo = join(base, `fifo-${which.replaceAll(' ', '-')}`)
      execFileSync('mkfifo', [fifo])
      const reader = openSync(fifo, 'r+')
      const writer = openSync(fifo, 'w')
      closeSync(reader) // the writer's end has no reader any more
      const stdio: StdioOptions = [
        'ignore',
        which.includes('stdout') ? writer : 'pipe',
        which.includes('stderr') ? writer : 'pipe',
      ]
      const version = `gone ${which}`
      const { status, stdout, stderr } = await run(
        update(places[0]!, '--nproc', '2', '--verbose', '--version', version),
        {},
        stdio,
      )
      closeSync(writer)
      expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
      if (!which.includes('stdout')) expect(stdout).toContain(`version ${version}`)
      expect(await engines[0]!.health()).toMatchObject({ version, dirty: false })
    })

    it('and a full disk fail in words, after the update', async () => {
      const full = openSync('/dev/full', 'w')
      const { status, stderr } = await run(both('--version', 'full'), {}, ['ignore', full, 'pipe'])
      closeSync(full)
      expect(status).toBe(1)
      expect(stderr).toMatch(/ckpt: results cannot be written to stdout: .*ENOSPC/)
      expect(stderr).not.toMatch(/\n {4}at /)
      expect(await engines[0]!.health()).toMatchObject({ version: 'full', dirty: false })
    })
  })

  it.each(['CKPT_METRICS_PORT', 'CKPT_P2P_ADDRESS', 'CKPT_TOKEN', 'MASTER_PORT'])(
    '%s as a service link is refused by name',
    async (name) => {
      const { status, stderr } = await run(update(places[0]!), { [name]: 'tcp://10.0.0.1:9' })
      expect(status).toBe(1)
      expect(stderr).toMatch(new RegExp(`ckpt: INVALID_ARGUMENT: ${name}=tcp://10.0.0.1:9 .*enableServiceLinks: false`))
      expect(stderr).not.toMatch(/\n {4}at /)
    },
  )

  describe('what is waited for', () => {
    it('is named: an engine whose control socket is missing', async () => {
      const missing = join(base, 'missing.sock')
      const line = [...CKPT, 'update', '--checkpoint', checkpoint.directory, '--engine-control', missing, '--timeout', '4']
      const { status, stderr } = await run(line)
      expect(status).toBe(1)
      expect(stderr).toMatch(
        new RegExp(`rank 0: waiting for the control engine of rank 0 to answer on ${missing} .*, for 1 s now`),
      )
      expect(stderr).toMatch(
        new RegExp(`ENGINE_UNREACHABLE: waited 4000 ms for the engine worker of rank 0 to answer on ${missing}`),
      )
    })

    it('is named on every rank, before anything is read, if one rank’s engine is missing', async () => {
      const half = join(base, 'half')
      mkdirSync(half)
      symlinkSync(engines[0]!.socket, join(half, 'engine-typescript-0.sock'))
      const { status, stderr } = await run(update(half, '--nproc', '2', '--timeout', '3'))
      expect(status).toBe(1)
      expect(stderr).toMatch(/rank 1: waiting for the control engine of rank 1 to answer on .*half.*-1\.sock .*, for 1 s now/)
      const failures = stderr.match(/ENGINE_UNREACHABLE: waited \d+ ms for the engine worker of rank 1 to answer/g)
      expect(failures).toHaveLength(2)
      expect(stderr).not.toContain('register')
    })

    it('is named: ranks that have not come', async () => {
      const env = { RANK: '0', WORLD_SIZE: '3', MASTER_PORT: String(await freePort()) }
      const { status, stderr } = await run(update(places[0]!, '--timeout', '4'), env)
      expect(status).toBe(1)
      expect(stderr).toMatch(/rank 0: waiting for rank 1 \(never joined\), rank 2 \(never joined\) for .*, for [12] s now/)
      expect(stderr).toMatch(/RANK_MISSING/)
    })

    it('is named: a coordinator that is not there', async () => {
      const env = { RANK: '1', WORLD_SIZE: '2', MASTER_PORT: String(await freePort()) }
      const { status, stderr } = await run(update(places[0]!, '--timeout', '3'), env)
      expect(status).toBe(1)
      expect(stderr).toMatch(/rank 1: waiting for rank 0 \(the coordinator at tcp:\/\/127.0.0.1:\d+\) to answer.*, for 1 s now/)
    })

    it('is found out where an engine cannot see the rank’s socket; no engine that was given nothing is dirty', async ({
      skip,
    }) => {
      if (!can('unshare', '--mount', 'true')) skip('mount namespaces are not permitted')
      const runtime = join(base, 'runtime')
      const own = join(base, 'blind')
      for (const path of [runtime, own]) mkdirSync(path)
      const script = `mount -t tmpfs tmpfs ${runtime} && exec "$@"`
      const blind = Array.from(
        { length: RANKS },
        (_, tpRank) =>
          new EngineProcess({
            ...{ kind: 'typescript' as const, directory: own, checkpoint: checkpoint.directory, tpRank, tpSize: RANKS },
            // Only the second one.
            ...(tpRank === 1 && { through: ['unshare', '--mount', 'sh', '-c', script, 'sh'] }),
          }),
      )
      try {
        await Promise.all(blind.map((engine) => engine.ready()))
        const began = performance.now()
        const { status, stderr } = await run(update(own, '--nproc', '2', '--timeout', '60'), { XDG_RUNTIME_DIR: runtime })
        expect(status).toBe(1)
        expect(stderr).toMatch(/the rank's socket .*runtime.*worker-1-\d+\.sock cannot be seen by process \d+/)
        // Detected, without waiting for a timeout.
        expect(performance.now() - began).toBeLessThan(55_000)
        const said = /engine workers of ranks ([\d, ]+) hold parts of it;/.exec(stderr)?.[1] ?? ''
        expect(said.split(', ')).not.toContain('1')
        expect((await blind[1]!.health()).dirty).toBe(false)
      } finally {
        await Promise.all(blind.map(({ process }) => process.stop()))
      }
    })
  })
})
