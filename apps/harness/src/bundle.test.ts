import { execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { controlRequest } from '@ckpt/core'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { generateCheckpoint, pythonInterpreter, pythonLacks, wrap } from '@ckpt/testing'

/** Environment of a node without Node: this machine's commands without those of Node. */
const MAKE = [fileURLToPath(new URL('../../../scripts/run.mjs', import.meta.url)), 'bundle']
const COMMANDS = fileURLToPath(new URL('../../../packages/bundle/src/bin', import.meta.url))
const NODE_COMMANDS = new Set(['node', 'nodejs', 'npm', 'npx', 'corepack', 'pnpm', 'yarn'])
const RANKS = 2
const NOBODY = 65534

const run = promisify(execFile)
let directory: string
let bundle: string
/** Runs one of the bundle's commands as on a bare node; failures are returned too. */
let env: Record<string, string>

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-bundle-'))
  chmodSync(directory, 0o755)
  bundle = join(directory, 'bundle')
  const commands = join(directory, 'commands')
  mkdirSync(commands)
  for (const folder of ['/usr/bin', '/bin']) {
    for (const name of readdirSync(folder)) {
      if (!NODE_COMMANDS.has(name) && !existsSync(join(commands, name))) trySymlink(join(folder, name), join(commands, name))
    }
  }
  env = { PATH: commands, HOME: '/nonexistent' }
  await run(process.execPath, [...MAKE, '--raw-node', '--out', bundle], { timeout: 150_000 })
}, 180_000)
afterAll(() => rmSync(directory, { recursive: true, force: true }))

function trySymlink(target: string, path: string): void {
  try {
    symlinkSync(target, path)
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'EEXIST') throw error
  }
}

/** Runs one of the bundle's commands as on a bare node; a failure comes back too. */
async function command(name: string, args: readonly string[], options: { env?: Record<string, string> } = {}) {
  const all = { cwd: '/', env: { ...env, ...options.env }, timeout: 170_000, maxBuffer: 2 ** 26 }
  return run(join(bundle, 'bin', name), args, all).then(
    ({ stdout, stderr }) => ({ status: 0, stdout, stderr }),
    (error: unknown) => {
      const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string }
      return { status: code, stdout, stderr }
    },
  )
}

async function present(name: string): Promise<boolean> {
  return run('sh', ['-c', `command -v ${name}`]).then(
    () => true,
    () => false,
  )
}

interface Findings {
  readonly ready: boolean
  readonly lacking: readonly string[]
  readonly checks: readonly { id: string; status: string; facts?: Record<string, unknown> }[]
}

describe('the bundle, without Node on the PATH', () => {
  it('starts with its own Node', async () => {
    await expect(run('sh', ['-c', 'command -v node'], { env, cwd: '/' })).rejects.toThrow()
    const { status, stdout } = await command('ckpt', ['--help'])
    expect(status).toBe(0)
    expect(stdout).toContain('doctor')
    const { stdout: node } = await command('ckpt-node', ['-p', 'process.execPath'])
    expect(node.trim()).toBe(join(bundle, 'node/node'))
  })

  it('is started through a symbolic link too', async () => {
    const link = join(directory, 'linked')
    symlinkSync(join(bundle, 'bin/ckpt'), link)
    expect((await run(link, ['--help'], { env, cwd: '/' })).stdout).toContain('update')
  })

  it('examines the node, and finds its own addons, its worker package and its files intact', async () => {
    const { status, stdout, stderr } = await command('ckpt', ['doctor', '--json'])
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    const { ready, checks } = JSON.parse(stdout) as Findings
    const statuses = Object.fromEntries(checks.map((check) => [check.id, check.status]))
    expect(ready).toBe(true)
    expect(statuses).toMatchObject({ bundle: 'ok', 'addon.host': 'ok', 'addon.cuda': 'ok' })
    if (statuses['python'] === 'ok') expect(statuses['python.ckpt_worker']).toBe('ok')
  })

  it('brings the reference engine beside the worker package', async (context) => {
    const absent = pythonLacks('torch', 'zmq', 'msgspec', 'safetensors')
    if (absent !== undefined) context.skip(`no Python engine: ${absent}`)
    const program = 'import ckpt_reference.__main__ as engine, ckpt_worker; print(engine.__file__); print(ckpt_worker.__file__)'
    const { stdout } = await run(pythonInterpreter(), ['-c', program], { env: { ...env, PYTHONPATH: join(bundle, 'python') } })
    const plugins =
      'import importlib.metadata as m; d = m.distribution("ckpt"); print(d.locate_file(""), *sorted(e.group for e in d.entry_points))'
    const registered = await run(pythonInterpreter(), ['-c', plugins], { env: { ...env, PYTHONPATH: join(bundle, 'python') } })
    expect(registered.stdout.split(/\s/).filter(Boolean)).toEqual([
      join(bundle, 'python'),
      'sglang.srt.plugins',
      'vllm.general_plugins',
    ])
    const site = join(bundle, 'python')
    expect(stdout).toBe(`${site}/ckpt_reference/__main__.py\n${site}/ckpt_worker/__init__.py\n`)
  })

  it('names a file that was damaged, and what was asked for and is missing', async () => {
    const file = join(bundle, 'LICENSE')
    const text = readFileSync(file)
    appendFileSync(file, 'x')
    const { status, stdout } = await command('ckpt', ['doctor', '--json', '--require', 'unicorn'])
    writeFileSync(file, text)
    expect(status).toBe(1)
    const { lacking, checks } = JSON.parse(stdout) as Findings
    expect(lacking).toEqual(['bundle', 'unicorn'])
    expect(checks.find(({ id }) => id === 'bundle')?.facts).toMatchObject({ damaged: ['LICENSE'] })
  })

  it.each([
    ['JavaScript', /^lib\/ckpt\.mjs$/],
    ['JavaScript that it imports', /^lib\/chunk-.*\.mjs$/],
    ['an addon', /^lib\/node_modules\/.*\.node$/],
    ['the worker package', /^python\/ckpt_worker\/.*\.py$/],
    ['a Python program', /^lib\/[^/]*\.py$/],
    ['Node', /^node\/node$/],
    ['a command', /^bin\/ckpt-bench$/],
  ] as const)('with any one byte of %s changed is refused by its name, before anything runs', async (_, name) => {
    const listed = readFileSync(join(bundle, 'SHA256SUMS'), 'utf8').match(/(?<= {2}).+$/gm)!
    const file = listed.find((one) => name.test(one))!
    const path = join(bundle, file)
    const whole = readFileSync(path)
    try {
      for (const at of [0, Math.floor(whole.length / 2), whole.length - 1]) {
        const changed = Buffer.from(whole)
        changed[at]! ^= 1
        writeFileSync(path, changed)
        expect(await command('ckpt', ['plan', '--help'])).toMatchObject({
          status: 1,
          stdout: '',
          stderr: `ckpt: INVALID_STATE: the bundle at ${bundle} is damaged: ${file}: copy it again\n`,
        })
      }
    } finally {
      writeFileSync(path, whole)
    }
    expect((await command('ckpt', ['--help'])).status).toBe(0)
  })

  it('runs nothing of what was put in place of its files', async () => {
    const mark = join(directory, 'ran')
    for (const [file, program] of [
      ['lib/ckpt.mjs', `import { writeFileSync } from 'node:fs'; writeFileSync(${JSON.stringify(mark)}, '')\n//`],
      ['node/node', `#!/bin/sh\n: >${mark}\nexit\n#`],
    ] as const) {
      const path = join(bundle, file)
      const whole = readFileSync(path)
      // The launcher next to a packed program, in its own directory.
      rmSync(path)
      writeFileSync(path, Buffer.concat([Buffer.from(program), Buffer.alloc(whole.length - program.length, 'x')]), {
        mode: 0o755,
      })
      const { status, stderr } = await command('ckpt', ['--help'])
      rmSync(path)
      writeFileSync(path, whole, { mode: 0o755 })
      expect({ status, stderr, ran: existsSync(mark) }).toEqual({
        status: 1,
        stderr: expect.stringContaining(`is damaged: ${file}:`) as string,
        ran: false,
      })
    }
    const sums = readFileSync(join(bundle, 'SHA256SUMS'))
    rmSync(join(bundle, 'SHA256SUMS'))
    const { status, stderr } = await command('ckpt', ['--help'])
    writeFileSync(join(bundle, 'SHA256SUMS'), sums)
    expect({ status, stderr }).toEqual({ status: 127, stderr: expect.stringContaining('SHA256SUMS is missing') as string })
  })

  it('runs the bench with rank, engine and gather processes of its own', async () => {
    const json = join(directory, 'bench.json')
    const args = [
      '--model',
      'qwen3-30b-a3b',
      '--bytes',
      '32MiB',
      '--repeat',
      '1',
      '--ranks',
      String(RANKS),
      '--json',
      json,
      '--report',
      join(directory, 'report.html'),
    ]
    const { status, stderr } = await command('ckpt-bench', args)
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    expect(JSON.parse(readFileSync(json, 'utf8'))).toMatchObject({
      runs: [{ ranks: RANKS, verified: 'bytes', parametersEqual: true }],
      gatherMetas: { ranks: 4 },
    })
  })

  it('updates engine workers, and logs', async () => {
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 32 * 2 ** 20, 5n)
    const sockets = Array.from({ length: RANKS }, (_, rank) => join(directory, `engine-${rank}.sock`))
    const engines = sockets.map((socket, rank) => {
      const args = [
        '--control',
        socket,
        '--checkpoint',
        checkpoint.directory,
        '--tp-rank',
        String(rank),
        '--tp-size',
        String(RANKS),
      ]
      const main = join(bundle, 'lib/testing-engine-main.mjs')
      return wrap(
        `engine ${rank}`,
        spawn(join(bundle, 'bin/ckpt-node'), [main, ...args], { env, cwd: '/', stdio: ['ignore', 'inherit', 'pipe'] }),
      )
    })
    try {
      await expect.poll(() => sockets.every((socket) => existsSync(socket)), { timeout: 20_000 }).toBe(true)
      const args = ['update', '--checkpoint', checkpoint.directory, '--engine-control', join(directory, 'engine-{rank}.sock')]
      const { status, stdout, stderr } = await command('ckpt', [...args, '--nproc', String(RANKS), '--json', '--verbose'])
      expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
      expect(stdout.trim().split('\n')).toHaveLength(RANKS)
      const logged = stderr.split('\n').filter((line) => line.startsWith('{"level"'))
      expect(logged.length).toBeGreaterThan(0)
      for (const socket of sockets) {
        expect(await controlRequest(socket, 'POST', '/verify', { files: checkpoint.files })).toMatchObject({ verified: true })
      }
    } finally {
      await Promise.all(engines.map((engine) => engine.stop()))
    }
  })
})

describe('unpacking Node at the first use', () => {
  const script = '#!/bin/sh\nprintf "%s " "$0" "$@"\n'
  let count = 0
  beforeEach(async (context) => {
    if (!(await present('xz'))) context.skip('no xz')
  })

  /** Lists the files of a bundle. */
  async function packed(): Promise<string> {
    const root = join(directory, `packed-${count++}`)
    cpSync(COMMANDS, join(root, 'bin'), { recursive: true })
    mkdirSync(join(root, 'node'))
    writeFileSync(join(root, 'node/node'), script)
    await run('xz', [join(root, 'node/node')])
    writeFileSync(join(root, 'node/id'), 'v20-abc\n')
    writeFileSync(join(root, 'node/sha256'), `${sha256(script)}\n`)
    list(root)
    return root
  }

  const sha256 = (content: string | Buffer) => createHash('sha256').update(content).digest('hex')
  /** Permissions do not restrict root: as root it runs as nobody. */
  const list = (root: string) => {
    const files = ['bin', 'node']
      .filter((folder) => existsSync(join(root, folder)))
      .flatMap((folder) => readdirSync(join(root, folder)).map((name) => join(folder, name)))
    const lines = files.map((file) => `${sha256(readFileSync(join(root, file)))}  ${file}\n`)
    writeFileSync(join(root, 'SHA256SUMS'), lines.join(''))
  }

  const start = (root: string, more: Parameters<typeof run>[2] = {}) =>
    run(join(root, 'bin/ckpt-node'), ['one', 'two words'], { env, cwd: '/', ...more, encoding: 'utf8' })

  it('happens once, also when several start at the same moment', async () => {
    const root = await packed()
    const expected = `${join(root, 'node/node-v20-abc')} one two words `
    const outputs = await Promise.all(Array.from({ length: 4 }, () => start(root)))
    expect(outputs.map(({ stdout }) => stdout)).toEqual(Array.from({ length: 4 }, () => expected))
    expect(readdirSync(join(root, 'node')).sort()).toEqual(['id', 'node-v20-abc', 'node.xz', 'sha256'])
    const { mtimeMs } = statSync(join(root, 'node/node-v20-abc'))
    expect((await start(root)).stdout).toBe(expected)
    expect(statSync(join(root, 'node/node-v20-abc')).mtimeMs).toBe(mtimeMs)
  })

  it('neither unpacks a changed one, nor runs one that was changed afterwards', async () => {
    const root = await packed()
    const archive = readFileSync(join(root, 'node/node.xz'))
    const changed = Buffer.from(archive)
    changed[30]! ^= 1
    writeFileSync(join(root, 'node/node.xz'), changed)
    await expect(start(root)).rejects.toThrow(/is damaged: node\/node\.xz: copy it again/)
    expect(readdirSync(join(root, 'node'))).not.toContain('node-v20-abc')
    writeFileSync(join(root, 'node/node.xz'), archive)
    await start(root)
    writeFileSync(join(root, 'node/node-v20-abc'), script.replace('%s ', '%s_'))
    await expect(start(root)).rejects.toThrow(/node\/node-v20-abc is not what the bundle at .* holds: remove it/)
    rmSync(join(root, 'node/node-v20-abc'))
    expect((await start(root)).stdout).toContain('one two words')
  })

  it('works with Python where xz is missing, and says what to install where both are', async (context) => {
    if (!(await present('python3'))) context.skip('no Python interpreter')
    const few = join(directory, 'few')
    mkdirSync(few)
    for (const name of ['sh', 'readlink', 'dirname', 'cat', 'chmod', 'mv', 'rm', 'mkdir', 'sha256sum']) {
      symlinkSync(join(env['PATH']!, name), join(few, name))
    }
    const root = await packed()
    await expect(start(root, { env: { PATH: few } })).rejects.toThrow(/xz or python3/)
    expect(readdirSync(join(root, 'node')).sort()).toEqual(['id', 'node.xz', 'sha256'])
    const { stdout: python } = await run('python3', ['-c', 'import sys; print(sys.executable)'])
    writeFileSync(join(few, 'python3'), `#!/bin/sh\nexec ${python.trim()} "$@"\n`, { mode: 0o755 })
    expect((await start(root, { env: { PATH: few } })).stdout).toContain('one two words')
  })

  it('goes to a cache where the bundle cannot be written, and names the remedy where there is none', async () => {
    const root = await packed()
    const cache = join(directory, 'cache')
    mkdirSync(cache)
    chmodSync(cache, 0o777)
    // Permissions do not bind root: then it runs as nobody.
    const user = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {}
    chmodSync(join(root, 'node'), 0o555)
    try {
      await expect(start(root, user)).rejects.toThrow(/CKPT_CACHE_DIR/)
      const { stdout } = await start(root, { ...user, env: { ...env, CKPT_CACHE_DIR: cache } })
      expect(stdout).toBe(`${join(cache, 'node-v20-abc')} one two words `)
    } finally {
      chmodSync(join(root, 'node'), 0o755)
    }
  })

  it('takes another Node where the bundle was made without', async () => {
    const root = await packed()
    rmSync(join(root, 'node'), { recursive: true })
    list(root)
    await expect(start(root)).rejects.toThrow(/made without Node/)
    const { stdout } = await run(join(root, 'bin/ckpt-node'), ['-p', '1 + 1'], {
      env: { ...env, CKPT_NODE: process.execPath },
      cwd: '/',
    })
    expect(stdout.trim()).toBe('2')
  })
})

describe('pnpm bundle', () => {
  it('does not replace a directory that is no bundle', async () => {
    const precious = join(directory, 'precious')
    mkdirSync(precious)
    writeFileSync(join(precious, 'thesis.txt'), 'years of work')
    const making = run(process.execPath, [...MAKE, '--no-node', '--out', precious])
    await expect(making).rejects.toThrow(/is no bundle/)
    expect(readdirSync(precious)).toEqual(['thesis.txt'])
  })

  it('makes an archive with the same files, and fails when it is too large', async () => {
    const out = join(directory, 'archived')
    const args = [...MAKE, '--no-node', '--archive', '--out', out]
    await expect(run(process.execPath, [...args, '--max-size', '100KiB'])).rejects.toThrow(/too large/)
    await run(process.execPath, args)
    const { files } = JSON.parse(readFileSync(join(out, 'MANIFEST.json'), 'utf8')) as { files: Record<string, unknown> }
    const archive = readdirSync(directory).find((name) => /^ckpt-.*\.tar\.[xg]z$/.test(name))!
    const { stdout } = await run('tar', ['--list', '--file', join(directory, archive)])
    const inArchive = stdout.split('\n').filter((name) => name !== '' && !name.endsWith('/'))
    expect(inArchive.map((name) => name.replace(/^[^/]+\//, '')).sort()).toEqual(
      [...Object.keys(files), 'MANIFEST.json'].sort(),
    )
  })
})
