/**
 * Runs the README's lines as a user would: `readme.ts PROJECT [RANKS]`, where PROJECT has the packages installed. One process a rank, each
 * with a reference engine worker, whose bytes are then compared with the files. Prints what was seen as one line; exit code 1 where a rank
 * failed or a byte differs.
 */
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { EngineProcess, generateCheckpoint } from '@ckpt/testing'
import { transform } from 'esbuild'

const BYTES = 48 * 2 ** 20
const RUN_TIMEOUT_MS = 120_000
/** What the README has instead of paths of this machine. */
const DIRECTORY = '/models/step-42'
const SOCKET = '/run/engine/${rank}.sock'

const [project, size = '2'] = process.argv.slice(2)
if (project === undefined) throw new Error('usage: readme.ts PROJECT [RANKS]')
const ranks = Array.from({ length: Number(size) }, (_, rank) => rank)
using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), BYTES, 11n, 'readme')
const engines = ranks.map((tpRank) => {
  const options = { kind: 'typescript' as const, directory: project, checkpoint: checkpoint.directory }
  return new EngineProcess({ ...options, tpRank, tpSize: ranks.length })
})
try {
  await Promise.all(engines.map((engine) => engine.ready()))
  writeFileSync(join(project, 'update.mjs'), await program())
  const run = promisify(execFile)
  const port = String(20_000 + (process.pid % 20_000))
  const outcomes = await Promise.all(
    ranks.map((rank) => {
      const env = { ...process.env, RANK: String(rank), WORLD_SIZE: String(ranks.length), MASTER_PORT: port }
      return run(process.execPath, ['update.mjs'], { cwd: project, timeout: RUN_TIMEOUT_MS, env })
    }),
  )
  for (const engine of engines) {
    const { mismatches } = await engine.verify(checkpoint.files)
    if (mismatches.length > 0)
      throw new Error(`bytes of the engine differ from the files': ${mismatches.slice(0, 5).join(', ')}`)
    const { version } = await engine.health()
    if (version !== 'step-42') throw new Error(`an engine serves ${String(version)}, not step-42`)
  }
  process.stdout.write(
    `${ranks.length} ranks updated ${ranks.length} workers, ${checkpoint.tensors} tensors, ${(checkpoint.bytes / 1e6).toFixed(1)} MB, ` +
      `every byte compared; it printed: ${outcomes[0]!.stdout.split('\n')[0]}\n`,
  )
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`)
  process.exitCode = 1
} finally {
  await Promise.all(engines.map((engine) => engine.process.stop()))
}

/** The README's lines, with this machine's checkpoint and sockets; each rank runs them as plain JavaScript. */
async function program(): Promise<string> {
  const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
  const lines = /## Use it[\s\S]*?```ts\n([\s\S]*?)```/.exec(readme)?.[1]
  if (lines === undefined) throw new Error('README.md has no TypeScript under "Use it"')
  for (const text of [DIRECTORY, SOCKET]) if (!lines.includes(text)) throw new Error(`README's lines no longer have ${text}`)
  await compiles(lines)
  const sockets = JSON.stringify(engines.map(({ socket }) => socket))
  const text = lines.replace(DIRECTORY, checkpoint.directory).replace(`\`${SOCKET}\``, `${sockets}[rank]!`)
  // Node 20 and 22 cannot parse `await using`: compiled as a user's build would.
  return (await transform(text, { loader: 'ts', target: 'node20', format: 'esm' })).code
}

/** Checks the types of the lines as they stand, with the packages of the project. */
async function compiles(lines: string): Promise<void> {
  writeFileSync(join(project!, 'update.ts'), lines)
  const tsc = fileURLToPath(new URL('../../../node_modules/typescript/bin/tsc', import.meta.url))
  const language = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2022,esnext.disposable,dom']
  const args = [tsc, '--noEmit', '--skipLibCheck', ...language, 'update.ts']
  await promisify(execFile)(process.execPath, args, { cwd: project, timeout: RUN_TIMEOUT_MS }).catch((error: unknown) => {
    throw new Error(`README's lines do not compile: ${(error as { stdout: string }).stdout}`)
  })
}
