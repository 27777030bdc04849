import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { aliveName } from './alive-name.ts'
import { RuntimeDir, runtimeCandidates, type RuntimeCandidate } from './runtime-dir.ts'

const root = process.geteuid?.() === 0
const named = (...paths: string[]): RuntimeCandidate[] => paths.map((path) => ({ name: path, path }))
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href
const MODULE = new URL('./runtime-dir.ts', import.meta.url).href

describe('the directory for sockets', () => {
  let base: string
  let good: string
  const children: ChildProcess[] = []
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'runtime-dir-test-'))
    good = join(base, 'good')
    mkdirSync(good)
  })
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL')
    spawnSync('umount', [join(base, 'read-only')])
    rmSync(base, { recursive: true, force: true })
  })

  /** A process that creates a directory in `good` and keeps running; `prefix` runs it, for example in separate namespaces. */
  const holder = async (prefix: readonly string[] = []): Promise<{ child: ChildProcess; path: string; pid: number }> => {
    const program = `const { RuntimeDir } = await import(${JSON.stringify(MODULE)}); const d = await RuntimeDir.create([{ name: 'x', path: ${JSON.stringify(good)} }]); console.log(d.path + ' ' + process.pid); setInterval(() => {}, 1000)`
    const [command, ...rest] = [...prefix, process.execPath]
    const args = [...rest, '--import', TSX, '--conditions=@ckpt/source', '--input-type=module', '-e', program]
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    const [path, pid] = line.toString().trim().split(' ')
    return { child, path: path!, pid: Number(pid) }
  }

  it('is the user’s alone, says that it lives, and goes on close', async () => {
    const directory = await RuntimeDir.create(named(good))
    expect(directory.path.startsWith(`${good}/ckpt-${process.pid}-`)).toBe(true)
    expect(statSync(directory.path).mode & 0o777).toBe(0o700)
    expect(readdirSync(directory.path)).toEqual([aliveName()])
    expect(directory.skipped).toEqual([])
    directory.close()
    expect(readdirSync(good)).toEqual([])
  })

  const unfit: [string, RegExp, (path: string) => string | undefined][] = [
    ['missing', /does not exist \(ENOENT\)/, (path) => path],
    ['empty', /is empty/, () => ''],
    ['relative', /not an absolute path/, () => 'tmp'],
    ['a file', /not a directory \(ENOTDIR\)/, (path) => (writeFileSync(path, ''), path)],
    ['a link to nowhere', /does not exist|broken symbolic link/, (path) => (symlinkSync(`${path}-nowhere`, path), path)],
    ['a link to itself', /broken symbolic link \(ELOOP\)/, (path) => (symlinkSync(path, path), path)],
    ['too long', /its path has \d+ bytes/, (path) => ((path += 'x'.repeat(70)), mkdirSync(path), path)],
    ['too long in bytes alone', /its path has \d+ bytes/, (path) => ((path += 'ü'.repeat(35)), mkdirSync(path), path)],
    [
      'open to all',
      /other users could replace/,
      (path) => (root ? (mkdirSync(path), chmodSync(path, 0o777), chownSync(path, 65_534, 65_534), path) : undefined),
    ],
    [
      'read-only',
      /read-only \(EROFS\)/,
      () => {
        const path = join(base, 'read-only')
        mkdirSync(path)
        return spawnSync('mount', ['-t', 'tmpfs', '-o', 'ro,size=64k', 'tmpfs', path]).status === 0 ? path : undefined
      },
    ],
    [
      'full',
      /full \(ENOSPC\)/,
      () => {
        const path = join(base, 'read-only')
        mkdirSync(path)
        return spawnSync('mount', ['-t', 'tmpfs', '-o', 'nr_inodes=1', 'tmpfs', path]).status === 0 ? path : undefined
      },
    ],
  ]

  it.for(unfit)('is made elsewhere where a candidate is %s, and says why', async ([_, why, make], { skip }) => {
    const path = make(join(base, 'unfit'))
    if (path === undefined) return skip('needs root, and leave to mount')
    using directory = await RuntimeDir.create(named(path, good))
    expect(directory.path.startsWith(good)).toBe(true)
    expect(directory.skipped).toEqual([expect.stringMatching(why)])
    await expect(RuntimeDir.create(named(path))).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(why),
      fields: { field: 'XDG_RUNTIME_DIR' },
    })
  })

  it('names every candidate where none can be used', async () => {
    const candidates = [
      { name: 'XDG_RUNTIME_DIR=/run/user/54321', path: '/run/user/54321' },
      ...named('', 'relative', join(base, 'no')),
    ]
    const error = await RuntimeDir.create(candidates).catch((thrown: unknown) => thrown as Error)
    for (const { name } of candidates) expect((error as Error).message).toContain(`${name}: `)
  })

  it('may be as long as a socket in it can be', async () => {
    for (let length = 50; length < 80; length++) {
      const path = join(base, 'x'.repeat(Math.max(1, length - base.length - 1)))
      mkdirSync(path, { recursive: true })
      const directory = await RuntimeDir.create(named(path)).catch(() => undefined)
      if (directory) expect(join(directory.path, 'worker-65535-1234567.sock').length).toBeLessThanOrEqual(107)
      else expect(path.length + 26).toBeGreaterThan(80)
      directory?.close()
    }
  })

  it('comes from the variables first, then from where machines have one', () => {
    const paths = (environment: NodeJS.ProcessEnv) => runtimeCandidates(environment).map(({ path }) => path)
    expect(paths({})).toEqual(['/tmp', '/dev/shm', '/var/tmp'])
    expect(paths({ TMPDIR: '/tmp', XDG_RUNTIME_DIR: '/x' })).toEqual(['/x', '/tmp', '/dev/shm', '/var/tmp'])
    expect(runtimeCandidates({ XDG_RUNTIME_DIR: '' })[0]).toEqual({ name: 'XDG_RUNTIME_DIR=', path: '' })
  })

  it('takes along what killed processes left, and nothing else', async () => {
    const killed = await holder()
    const stopped = await holder()
    const live = await holder()
    killed.child.kill('SIGKILL')
    await once(killed.child, 'exit')
    stopped.child.kill('SIGSTOP')
    // From a machine that shares the directory, from an earlier version, and names that only look similar.
    const others = ['ckpt-1-aaaaaa', 'ckpt-2-bbbbbb', 'other', 'ckpt-3-cccccc-x'].map((name) => join(good, name))
    for (const path of others) mkdirSync(path)
    writeFileSync(join(others[0]!, 'alive-00000000.sock'), '')
    using directory = await RuntimeDir.create(named(good))
    expect(existsSync(killed.path)).toBe(false)
    for (const path of [stopped.path, live.path, directory.path, ...others]) expect(existsSync(path), path).toBe(true)
  })

  it('does not follow, nor stumble over, links that others have put there', async ({ skip }) => {
    if (!root) skip('only root can make links of another user')
    const killed = await holder()
    killed.child.kill('SIGKILL')
    await once(killed.child, 'exit')
    const victim = join(base, 'victim')
    mkdirSync(victim)
    writeFileSync(join(victim, 'data'), 'x')
    const links = ['nowhere', victim, killed.path].map((target, index) => {
      const link = join(good, `ckpt-${index + 1}-aaaaa${index}`)
      execFileSync('ln', ['-s', target, link])
      execFileSync('chown', ['-h', '65534:65534', link])
      return link
    })
    using directory = await RuntimeDir.create(named(good))
    expect(existsSync(directory.path)).toBe(true)
    expect(readdirSync(victim)).toEqual(['data'])
    for (const link of links) expect(lstatSync(link).isSymbolicLink()).toBe(true)
    expect(existsSync(killed.path)).toBe(false)
  })

  it('is kept by what starts in a different PID namespace, whichever ids coincide', async ({ skip }) => {
    const unshare = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']
    if (spawnSync(unshare[0]!, [...unshare.slice(1), 'true']).status !== 0) skip('PID namespaces are not permitted')
    const inside = await Promise.all([holder(unshare), holder(unshare)])
    expect(new Set(inside.map(({ pid }) => pid)).size).toBe(1)
    const outside = await holder()
    const late = await holder(unshare)
    for (const { path } of [...inside, outside, late]) expect(existsSync(path), path).toBe(true)
    // Killed, with an id that is unknown here: the next start removes it nevertheless.
    inside[0].child.kill('SIGKILL')
    await once(inside[0].child, 'exit')
    let gone = false
    for (let i = 0; i < 100 && !gone; i++) {
      using _ = await RuntimeDir.create(named(good))
      gone = !existsSync(inside[0].path)
      if (!gone) await new Promise((resolve) => setTimeout(resolve, 50))
    }
    expect(gone).toBe(true)
    for (const { path } of [inside[1], outside, late]) expect(existsSync(path), path).toBe(true)
  })

  it('goes with a worker thread that is terminated', async () => {
    const inside = `import('tsx/esm/api').then(({ register }) => { register(); return import('${MODULE}') }).then(async ({ RuntimeDir }) => {
      await RuntimeDir.create([{ name: 'x', path: '${good}' }])
      require('node:worker_threads').parentPort.postMessage('made')
      setInterval(() => {}, 1000)
    })`
    const program = `const { Worker } = require('node:worker_threads')
      const count = () => require('node:fs').readdirSync('${good}').length
      const worker = new Worker(${JSON.stringify(inside)}, { eval: true, execArgv: ['--conditions=@ckpt/source'] })
      worker.on('message', async () => { const before = count(); await worker.terminate(); console.log(before, count()); process.exit(0) })
      worker.on('error', (error) => { console.log(error); process.exit(1) })`
    const out = execFileSync(process.execPath, ['-e', program], { cwd: import.meta.dirname, encoding: 'utf8' })
    expect(out.trim()).toBe('1 0')
  })
})
