import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { createHost } from '@ckpt/transport'
import { model } from '@ckpt/models'
import { EngineProcess, generateCheckpoint, type GeneratedCheckpoint, nodeArguments } from '@ckpt/testing'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createProgram } from '../run.ts'
import { ckptLine, commandsOf, documentedCommands, ROOT, wordsOf } from './markdown-commands.fixture.ts'

const MAIN = join(ROOT, 'apps/cli/src/main.ts')
const RANKS = 2
/** Programs that belong to others, or that change the machine. */
const OTHERS =
  /^(?:[A-Z_]+=\S* )*(?:apt-get|buildah|cd|cp|curl|docker|export|git|helm|jq|kubectl|mkdir|mpirun|openssl|pip|podman|python|python3|sbatch|scp|srun|systemctl|tar|torchrun|vllm)\b/
const scripts = Object.keys((JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: object }).scripts)

let checkpoint: GeneratedCheckpoint
let directory: string
let engines: EngineProcess[]
beforeAll(async () => {
  checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 8 * 2 ** 20, 17n, 'docs')
  directory = mkdtempSync(join(tmpdir(), 'ckpt-docs-test-'))
  mkdirSync(join(directory, 'versions'))
  cpSync(checkpoint.directory, join(directory, 'versions', 'step-10'), { recursive: true })
  engines = Array.from(
    { length: RANKS },
    (_, tpRank) =>
      new EngineProcess({ kind: 'typescript', directory, checkpoint: checkpoint.directory, tpRank, tpSize: RANKS }),
  )
  await Promise.all(engines.map((engine) => engine.ready()))
}, 120_000)
afterAll(async () => {
  await Promise.all(engines.map(({ process }) => process.stop()))
  rmSync(directory, { recursive: true, force: true })
  checkpoint[Symbol.dispose]()
})

/** Runs a program of this repository; its own exit status is the caller's to judge. */
async function run(program: string, args: readonly string[], cwd = directory) {
  const options = { cwd, timeout: 500_000, maxBuffer: 1 << 26, env: { ...process.env, INIT_CWD: directory } }
  return promisify(execFile)(process.execPath, [...nodeArguments(program), ...args], options).then(
    ({ stdout, stderr }) => ({ status: 0, stdout, stderr }),
    (error: unknown) => {
      const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string }
      return { status: code, stdout, stderr }
    },
  )
}

/** The words of a documented line, with this machine's engines, checkpoint and two ranks in place of those of the page. */
function here(words: readonly string[]): string[] {
  const replaced: string[] = []
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!
    if (['--parallel-size', '--engine-tls-ca', '--port', '--uds', '--device'].includes(word)) at++
    else if (word === '--engine' && /^(?:vllm|sglang|control)/.test(words[at + 1] ?? '')) {
      replaced.push(word, `control=${join(directory, 'engine-typescript-{rank}.sock')}`)
      at++
    } else if (word === '--nproc') {
      replaced.push(word, String(RANKS))
      at++
    } else if (word === 'DIR') replaced.push(checkpoint.directory)
    else if (word === '/checkpoints') replaced.push(join(directory, 'versions'))
    else replaced.push(word)
  }
  if (/^(?:update|join|watch)$/.test(words[0]!) && !words.includes('--nproc')) replaced.push('--nproc', String(RANKS))
  return replaced
}

async function verified(): Promise<void> {
  for (const engine of engines) {
    expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
    expect((await engine.health()).dirty).toBe(false)
  }
}

/** Runs a documented `ckpt` command here. @returns the reason if it cannot run here */
const RUNS: Readonly<Record<string, (words: string[]) => Promise<string | undefined>>> = {
  async update(words) {
    if (words.includes('--from')) return 'it needs a trainer: trainer.test.ts runs one'
    await Promise.all(engines.map((engine) => engine.poison()))
    const { status, stdout, stderr } = await run(MAIN, here(words))
    expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
    expect(stdout).toContain(`to ${RANKS} engine workers`)
    await verified()
    return undefined
  },
  async launch(words) {
    // The examples, from the clone; engines with a control socket in place of vLLM's.
    const metas = join(directory, 'metas.ckpt')
    const engine = ['--control', join(directory, 'engine-typescript-{rank}.sock'), '--backend', 'host']
    const line = here(words).map((word) => ({ MODEL: checkpoint.directory, 'metas.ckpt': metas })[word] ?? word)
    await Promise.all(engines.map((one) => one.poison()))
    let holder: ChildProcess | undefined
    if (words.includes('--load-metas')) {
      const from = line.slice(0, line.indexOf('--update'))
      const holding = [...from, '--checkpoint', checkpoint.directory, '--save-metas', metas, '--keep-serving', ...engine]
      holder = spawn(process.execPath, [...nodeArguments(MAIN), ...holding], {
        cwd: ROOT,
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      let said = ''
      holder.stdout!.setEncoding('utf8').on('data', (text: string) => (said += text))
      while (!said.includes('holding the checkpoint') && holder.exitCode === null) await sleep(50)
      await Promise.all(engines.map((one) => one.poison()))
    }
    try {
      const { status, stdout, stderr } = await run(MAIN, [...line, ...engine], ROOT)
      expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
      expect(stdout).toMatch(/^(?:p2p|broadcast): \d+ tensors/m)
      await verified()
    } finally {
      if (holder !== undefined) {
        const ended = once(holder, 'close')
        holder.kill('SIGTERM')
        await ended
      }
    }
    return undefined
  },
  async watch(words) {
    await Promise.all(engines.map((engine) => engine.poison()))
    const { status, stdout, stderr } = await run(MAIN, [...here(words), '--count', '1', '--settle', '0'])
    expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
    expect(stdout).toMatch(/^version step-10: \d+ tensors/m)
    await verified()
    return undefined
  },
  async serve(words) {
    if (words.includes('--token-file') || words.includes('--tls-cert')) return 'it needs a secret and a certificate of the page'
    const args = [...here(words), ...(words.includes('--nproc') ? [] : ['--nproc', '1'])]
    if (!words.includes('--engine')) args.push('--uds', join(directory, 'rank-{rank}.sock'))
    const child = spawn(process.execPath, [...nodeArguments(MAIN), ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
    const ended = once(child, 'close')
    let stdout = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    const lines = () => stdout.split('\n').filter((line) => line.includes('"listening"'))
    try {
      while (lines().length < (words.includes('--nproc') ? RANKS : 1) && child.exitCode === null) await sleep(50)
      expect(JSON.parse(lines()[0]!)).toHaveProperty('device')
    } finally {
      child.kill('SIGTERM')
      expect(await ended).toEqual([0, null])
    }
    return undefined
  },
  async plan(words) {
    const { status, stdout } = await run(MAIN, words)
    expect(status).toBe(0)
    expect(stdout).toContain('The busiest link of each kind')
    return undefined
  },
  async doctor(words) {
    const { status, stdout } = await run(MAIN, words)
    const required = words.includes('--require') ? words.slice(words.indexOf('--require') + 1) : []
    if (words.includes('--json')) expect(JSON.parse(stdout)).toMatchObject({ schema: 1, ready: true })
    // What a machine without GPUs lacks is named.
    else if (status === 0) expect(stdout).toContain('ready: nothing required is missing')
    else expect(required.some((id) => stdout.includes(`not ready: ${id}`))).toBe(true)
    return undefined
  },
  async completion(words) {
    const { status, stdout } = await run(MAIN, words)
    expect(status).toBe(0)
    expect(stdout).toContain('ckpt')
    return undefined
  },
  async config(words) {
    writeFileSync(join(directory, 'ckpt.yaml'), 'common:\n  nproc: 2\n')
    expect(await run(MAIN, words)).toMatchObject({ status: 0 })
    rmSync(join(directory, 'ckpt.yaml'))
    return undefined
  },
}

/** Parses a line with the real commands, of which none acts. */
async function parse(words: readonly string[]): Promise<void> {
  const program = createProgram()
  for (const command of program.commands) command.action(() => undefined).configureOutput({ writeErr: () => undefined })
  await program.parseAsync(words, { from: 'user' })
}

/** Lines that were run, as they were run. */
const ran = new Set<string>()

describe('the commands of the pages', () => {
  it.for(documentedCommands())('$page: $text', { timeout: 600_000 }, async ({ text, notRun }, { skip }) => {
    const line = ckptLine(text) ?? /^source <\(ckpt (.*)\)$/.exec(text)?.[1]
    if (line !== undefined) {
      const words = wordsOf(line)
      if (words.includes('…')) skip('it is a pattern, not a whole command')
      await parse(words)
      if (notRun !== undefined) skip(notRun)
      // Lines that differ only in engines that are replaced here are run once.
      const same = here(words).join(' ')
      if (ran.has(same)) return
      ran.add(same)
      const reason = RUNS[words[0]!] === undefined ? `no run of ${words[0]} is known here` : await RUNS[words[0]!]!(words)
      if (reason !== undefined) skip(reason)
      return
    }
    const [, script, rest = ''] = /^(?:npm run|pnpm|npm) ([\w:-]+)(.*)$/.exec(text) ?? []
    if (script === 'install') skip('it needs packed packages: the release check installs them')
    if (script !== undefined) {
      expect(scripts).toContain(script)
      if (notRun !== undefined) skip(notRun)
      const programs: Record<string, string> = {
        fuzz: 'apps/harness/src/fuzz/main.ts',
        'test:faults': 'apps/harness/src/faults/main.ts',
      }
      if (!rest.includes('--list')) skip(`${script} runs for minutes: its script is there`)
      const { status, stdout } = await run(join(ROOT, programs[script]!), ['--list'])
      expect(status).toBe(0)
      expect(stdout.split('\n').length).toBeGreaterThan(3)
      return
    }
    if (notRun !== undefined) skip(notRun)
    if (text.includes('npx vitest run')) {
      const [file] = /[\w/.-]+\.test\.ts/.exec(text) ?? []
      readFileSync(join(ROOT, file!))
      skip('it runs tests, which are run themselves')
    }
    expect(OTHERS.test(text), `cannot tell how to run it: mark its block with <!-- not run: REASON -->`).toBe(true)
    skip('it is a program of others')
  })

  it('are found with their marks', () => {
    const page =
      '<!-- not run: it needs a GPU -->\n\n```sh\nckpt a \\\n  --b c   # why\n# a comment\n\nd "#e"\n```\n\n```ts\nno()\n```\n'
    expect(commandsOf('x.md', page)).toEqual([
      { page: 'x.md', text: 'ckpt a --b c', notRun: 'it needs a GPU' },
      { page: 'x.md', text: 'd "#e"', notRun: 'it needs a GPU' },
    ])
    expect(wordsOf("update --engine 'control=/run/{rank}.sock' DIR | head")).toEqual([
      'update',
      '--engine',
      'control=/run/{rank}.sock',
      'DIR',
    ])
  })
})
