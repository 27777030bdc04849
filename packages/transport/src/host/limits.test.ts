import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { hostAddon } from '../addon.ts'

const GIB = 2 ** 30
/** Values that no machine reaches: the kernel's own "no limit" of version 1, and what tools write instead. */
const UNLIMITED = ['max', '-1', '9223372036854771712', '18446744073709551615', '99999999999999999999999', '1152921504606846976']

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'ckpt-limits-'))
})
afterEach(() => {
  rmSync(root, { recursive: true, force: true })
})

function write(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), `${text}\n`)
  }
}

/** One line of mountinfo, escaped as by the kernel. */
function mount(group: string, point: string, type: 'cgroup' | 'cgroup2', options = 'rw'): string {
  const escape = (text: string) => text.replace(/[\\ \t\n]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`)
  return `30 23 0:26 ${escape(group)} ${escape(point)} rw,nosuid shared:9 master:1 - ${type} ${type} ${options}`
}

function limits(): { file: string; text: string; bytes: number; used: number; available: number }[] {
  return hostAddon().memoryLimits(root)
}

interface Level {
  readonly name: string
  /** Text of the limit's file, or undefined for none. */
  readonly max: string | undefined
  readonly high: string | undefined
  readonly used: number | undefined
  readonly cache: number | undefined
}

const size = fc.integer({ min: 0, max: 2 ** 46 })
const limitText = fc.oneof(
  { weight: 4, arbitrary: size.map(String) },
  { weight: 2, arbitrary: fc.constantFrom(...UNLIMITED) },
  { weight: 1, arbitrary: fc.constantFrom('', 'garbage', '12x') },
)
const level: fc.Arbitrary<Level> = fc.record({
  name: fc.constantFrom('a', 'kubepods.slice', 'pod 7', 'x:y', 'crio-9\\x2d.scope', 'very\tlong', '_'),
  max: fc.option(limitText, { nil: undefined }),
  high: fc.option(limitText, { nil: undefined }),
  used: fc.option(size, { nil: undefined }),
  cache: fc.option(size, { nil: undefined }),
})
const layout = fc.record({
  levels: fc.array(level, { minLength: 0, maxLength: 6 }),
  /** Number of levels above the mounted group (in a container that mounts its own). */
  hidden: fc.nat({ max: 3 }),
  point: fc.constantFrom('/sys/fs/cgroup', '/sys/fs/cgroup/memory', '/mnt/other place/cg', '/c'),
  version: fc.constantFrom(1 as const, 2 as const),
  hybrid: fc.boolean(),
  available: fc.option(fc.integer({ min: 0, max: 2 ** 36 }), { nil: undefined }),
})

/** A text's limit by its definition: integers below an exbibyte. */
function parsed(text: string | undefined): number {
  return text !== undefined && /^\d+$/.test(text) && BigInt(text) < 2n ** 60n ? Number(text) : Infinity
}

/** What the visible levels leave, computed in the simplest way. */
function expected(seen: readonly Level[], version: 1 | 2): number {
  const left = (max: string | undefined, { used, cache }: Level) => {
    const limit = parsed(max)
    if (limit === Infinity) return Infinity
    const held = used === undefined ? 0 : Math.max(0, used - (cache ?? 0))
    return Math.max(0, limit - held)
  }
  return Math.min(Infinity, ...seen.flatMap((each) => [left(each.max, each), version === 2 ? left(each.high, each) : Infinity]))
}

describe('generated trees', () => {
  it('finds the tightest limit of every group from the process up, wherever it is mounted, and its file', () => {
    fc.assert(
      fc.property(layout, ({ levels, hidden, point, version, hybrid, available }) => {
        rmSync(root, { recursive: true, force: true })
        const own = levels.map(({ name }, index) => `/${name}${index}`)
        const above = Array.from({ length: hidden }, (_, index) => `/hidden${index}`).join('')
        const path = above + own.join('') || '/'
        const files: Record<string, string> = {}
        // The mounted group itself has no limit unless something is hidden above it: then it is the first level.
        levels.forEach((each, index) => {
          const directory = point + own.slice(0, index + 1).join('')
          const names = version === 2 ? ['memory.max', 'memory.current'] : ['memory.limit_in_bytes', 'memory.usage_in_bytes']
          if (each.max !== undefined) files[`${directory}/${names[0]}`] = each.max
          if (each.high !== undefined && version === 2) files[`${directory}/memory.high`] = each.high
          if (each.used !== undefined) files[`${directory}/${names[1]}`] = String(each.used)
          const cacheName = version === 2 ? 'inactive_file' : 'total_inactive_file'
          if (each.cache !== undefined) files[`${directory}/memory.stat`] = `anon 1\n${cacheName} ${each.cache}\nlast 3`
        })
        const group = above || '/'
        const other = version === 2 ? mount('/', '/sys/fs/cgroup/v1cpu', 'cgroup', 'rw,cpu') : mount('/', '/unified', 'cgroup2')
        files['/proc/self/mountinfo'] = [
          '22 27 0:21 / /proc rw,relatime - proc proc rw',
          ...(hybrid ? [other] : []),
          version === 2 ? mount(group, point, 'cgroup2') : mount(group, point, 'cgroup', 'rw,memory'),
        ].join('\n')
        files['/proc/self/cgroup'] = [
          ...(hybrid ? [version === 2 ? '3:cpu:/elsewhere' : '0::/elsewhere'] : []),
          version === 2 ? `0::${path}` : `4:hugetlb,memory:${path}`,
        ].join('\n')
        if (available !== undefined) files['/proc/meminfo'] = `MemTotal: 1 kB\nMemAvailable: ${available} kB`
        write(files)

        const found = limits()
        const wanted = Math.min(expected(levels, version), available === undefined ? Infinity : available * 1024)
        expect(found[0]?.available ?? Infinity).toBe(wanted)
        for (const [index, limit] of found.entries()) {
          expect(limit.available).toBeGreaterThanOrEqual(index === 0 ? 0 : found[index - 1]!.available)
          expect(limit.text).toContain(limit.file)
          if (limit.file === '/proc/meminfo') continue
          expect(existsSync(join(root, limit.file))).toBe(true)
          expect(parsed(readFileSync(join(root, limit.file), 'utf8').trim())).toBe(limit.bytes)
        }
      }),
      { numRuns: 300 },
    )
  })

  it('never throws, whatever the files hold', () => {
    const text = fc.oneof(fc.string({ maxLength: 60 }), fc.constantFrom('0::/a', '4:memory:/..', '0::', ':::', '0::/../../b'))
    const line = fc.oneof(
      text,
      fc.tuple(text, text).map(([group, point]) => mount(`/${group}`, `/${point}`, 'cgroup2')),
    )
    fc.assert(
      fc.property(fc.array(line, { maxLength: 4 }), fc.array(text, { maxLength: 4 }), text, (mounts, groups, meminfo) => {
        write({
          '/proc/self/mountinfo': mounts.join('\n'),
          '/proc/self/cgroup': groups.join('\n'),
          '/proc/meminfo': `MemAvailable: ${meminfo}`,
        })
        for (const { available } of limits()) expect(available).toBeGreaterThanOrEqual(0)
        expect(hostAddon().usableCpus(root)).toBeGreaterThanOrEqual(1)
      }),
      { numRuns: 200 },
    )
  })
})

describe('as container runtimes mount them', () => {
  const pod = (directory: string) => ({
    [`${directory}/memory.max`]: String(2 * GIB),
    [`${directory}/memory.current`]: String(Math.round(1.9 * GIB)),
  })

  it('writes the file and both numbers', () => {
    write({
      ...pod('/sys/fs/cgroup/a/b'),
      '/proc/self/mountinfo': mount('/', '/sys/fs/cgroup', 'cgroup2'),
      '/proc/self/cgroup': '0::/a/b',
    })
    expect(limits()[0]!.text).toBe('/sys/fs/cgroup/a/b/memory.max is 2.0 GiB, 1.9 GiB of it used')
  })

  it('reads the group itself where a namespace makes it the root', () => {
    write({
      ...pod('/sys/fs/cgroup'),
      '/proc/self/mountinfo': mount('/', '/sys/fs/cgroup', 'cgroup2'),
      '/proc/self/cgroup': '0::/',
    })
    expect(limits()[0]).toMatchObject({ file: '/sys/fs/cgroup/memory.max', bytes: 2 * GIB })
  })

  it('reads the group that a mount from elsewhere shows, without a namespace', () => {
    write({
      ...pod('/sys/fs/cgroup'),
      '/proc/self/mountinfo': mount('/docker/abc', '/sys/fs/cgroup', 'cgroup2'),
      '/proc/self/cgroup': '0::/docker/abc',
    })
    expect(limits()[0]).toMatchObject({ file: '/sys/fs/cgroup/memory.max' })
  })

  it('finds the group by its processes where the mount begins above the namespace', () => {
    write({
      ...pod('/host/cg/pods/mine/inner'),
      '/host/cg/pods/mine/inner/cgroup.procs': String(process.pid),
      '/host/cg/pods/other/cgroup.procs': '1',
      '/host/cg/pods/other/memory.max': '1',
      '/proc/self/mountinfo': mount('/../..', '/host/cg', 'cgroup2'),
      '/proc/self/cgroup': '0::/inner',
    })
    expect(limits().map(({ file }) => file)).toEqual(['/host/cg/pods/mine/inner/memory.max'])
  })

  it('prefers the mount that shows the ancestors', () => {
    write({
      '/all/docker/memory.max': String(GIB),
      ...pod('/own'),
      ...pod('/all/docker/abc'),
      '/proc/self/mountinfo': [mount('/docker/abc', '/own', 'cgroup2'), mount('/', '/all', 'cgroup2')].join('\n'),
      '/proc/self/cgroup': '0::/docker/abc',
    })
    expect(limits().map(({ file }) => file)).toContain('/all/docker/memory.max')
  })

  it('takes the limit of hidden ancestors from version 1, and leaves out ancestors that do not count', () => {
    const files = {
      '/cg/memory.limit_in_bytes': UNLIMITED[2]!,
      '/cg/a/memory.limit_in_bytes': String(8 * GIB),
      '/cg/a/memory.usage_in_bytes': String(GIB),
      '/proc/self/cgroup': '4:memory:/pod/a',
      '/proc/self/mountinfo': mount('/pod', '/cg', 'cgroup', 'rw,memory'),
    }
    write({ ...files, '/cg/memory.stat': `hierarchical_memory_limit ${3 * GIB}\ntotal_inactive_file 0` })
    expect(limits()[0]).toMatchObject({ file: '/cg/memory.stat', bytes: 3 * GIB })
    write({ ...files, '/cg/memory.limit_in_bytes': String(GIB), '/cg/memory.use_hierarchy': '0', '/cg/memory.stat': '' })
    expect(limits().map(({ file }) => file)).toEqual(['/cg/a/memory.limit_in_bytes'])
  })

  it('knows nothing, and says so, without /proc', () => {
    expect(limits()).toEqual([])
  })
})

describe('processor time', () => {
  it.each([
    [{ '/cg/pod/cpu.max': '150000 100000' }, 2],
    [{ '/cg/pod/cpu.max': '50000 100000' }, 1],
    [{ '/cg/pod/cpu.max': 'max 100000' }, Infinity],
    [{ '/cg/cpu.max': '100000 100000', '/cg/pod/cpu.max': 'max 100000' }, 1],
  ])('rounds a quota up, and takes the tightest of the ancestors: %j', (files, cpus) => {
    write({ ...files, '/proc/self/mountinfo': mount('/', '/cg', 'cgroup2'), '/proc/self/cgroup': '0::/pod' })
    expect(hostAddon().usableCpus(root)).toBe(Math.min(cpus, hostAddon().usableCpus('/nowhere')))
  })

  it.each([
    ['-1', Infinity],
    ['100000', 1],
  ])('reads version 1: %s', (quota, cpus) => {
    write({
      '/cg/p/cpu.cfs_quota_us': quota,
      '/cg/p/cpu.cfs_period_us': '100000',
      '/proc/self/mountinfo': mount('/', '/cg', 'cgroup', 'rw,cpu,cpuacct'),
      '/proc/self/cgroup': '2:cpu,cpuacct:/p',
    })
    expect(hostAddon().usableCpus(root)).toBe(Math.min(cpus, hostAddon().usableCpus('/nowhere')))
  })
})

/** A program that runs in a real control group, and prints the limits and the result of an allocation. */
const PROGRAM = `
  const { writeFileSync } = await import('node:fs')
  writeFileSync(process.argv[1] + '/cgroup.procs', String(process.pid))
  const { loadNativeHost } = await import(${JSON.stringify(import.meta.resolve('@ckpt/native-host'))})
  const host = loadNativeHost()
  const result = { limits: host.memoryLimits() }
  try { await host.allocate({ bytes: 2 ** 30, lock: false }) } catch ({ code, message, file }) { result.error = { code, message, file } }
  console.log(JSON.stringify(result))`

/** A place where this machine allows creating groups, with the name of the limit's file. */
function realGroup(): { directory: string; file: string } | undefined {
  for (const [parent, file] of [
    ['/sys/fs/cgroup/memory', 'memory.limit_in_bytes'],
    ['/sys/fs/cgroup', 'memory.max'],
  ] as const) {
    const directory = `${parent}/ckpt-test-${process.pid}`
    try {
      mkdirSync(directory)
    } catch {
      continue
    }
    if (existsSync(`${directory}/${file}`)) return { directory, file }
    rmdirSync(directory)
  }
  return undefined
}

describe('a real control group', () => {
  it('limits a process two levels below it, and an allocation names its file', (context) => {
    const group = realGroup()
    if (group === undefined) return context.skip('no control group can be made here (it takes root and a writable hierarchy)')
    const { directory, file } = group
    const inner = `${directory}/inner`
    try {
      writeFileSync(`${directory}/${file}`, String(512 * 2 ** 20))
      mkdirSync(inner)
      const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', PROGRAM, inner], {
        encoding: 'utf8',
      })
      expect(stderr).toBe('')
      const { limits: seen, error } = JSON.parse(stdout) as { limits: { file: string; bytes: number }[]; error: object }
      expect(seen[0]).toMatchObject({ file: `${directory}/${file}`, bytes: 512 * 2 ** 20 })
      expect(error).toMatchObject({
        code: 'OUT_OF_MEMORY',
        file: `${directory}/${file}`,
        message: expect.stringContaining(`${directory}/${file} is 512.0 MiB, `),
      })
    } finally {
      for (const each of [inner, directory]) if (existsSync(each)) rmdirSync(each)
    }
  })
})

/** Allocates `bytes`, locked, and prints the result. */
const LOCKING = (bytes: number, shareable: boolean) => `
  const { loadNativeHost } = await import(${JSON.stringify(import.meta.resolve('@ckpt/native-host'))})
  const options = { bytes: ${bytes}, shareable: ${shareable}, prefault: false }
  const result = await loadNativeHost().allocate(options).then(
    ({ locked, lockError }) => ({ locked, lockError }),
    ({ code, message, file }) => ({ code, message, file }),
  )
  console.log(JSON.stringify(result))`

function within(limits: readonly string[], program: string): Record<string, unknown> | string {
  const node = [process.execPath, '--input-type=module', '-e', program]
  // Limits that a capability lifts do not count.
  const without = ['--bounding-set=-ipc_lock,-sys_resource', '--inh-caps=-all']
  const { stdout, stderr } = spawnSync('setpriv', [...without, 'prlimit', ...limits, ...node], { encoding: 'utf8' })
  return !stdout ? `no limit can be set here: ${stderr}` : (JSON.parse(stdout) as Record<string, unknown>)
}

describe('limits of the process', () => {
  it('on locked memory are told with how much of it is used', (context) => {
    const result = within(['--memlock=65536:65536'], LOCKING(4 * 2 ** 20, false))
    if (typeof result === 'string') return context.skip(result)
    expect(result).toMatchObject({
      locked: false,
      lockError: expect.stringMatching(/Max locked memory in [/]proc[/]self[/]limits, is 64[.]0 KiB, .* of it used/),
    })
  })

  it('on private memory hold for private memory alone', (context) => {
    const limited = (shareable: boolean) => within([`--data=${2 * GIB}:${2 * GIB}`], LOCKING(2 * GIB, shareable))
    const result = limited(false)
    if (typeof result === 'string') return context.skip(result)
    expect(result).toMatchObject({
      code: 'OUT_OF_MEMORY',
      file: '/proc/self/limits',
      message: expect.stringMatching(/Max data size in [/]proc[/]self[/]limits is 2[.]0 GiB, .* of it used/),
    })
    expect(limited(true)).not.toHaveProperty('code')
  })

  it('on addresses name the file', (context) => {
    const [size] = /^\d+/.exec(readFileSync('/proc/self/statm', 'utf8'))!
    const limit = Number(size) * 4096 + 8 * GIB
    const result = within([`--as=${limit}:${limit}`], LOCKING(9 * GIB, true))
    if (typeof result === 'string') return context.skip(result)
    // If the machine has less memory than that, its own limit is reported.
    expect(result).toMatchObject({ code: 'OUT_OF_MEMORY', file: expect.stringMatching(/limits|meminfo|memory/) })
  })
})
