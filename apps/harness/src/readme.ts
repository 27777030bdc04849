/**
 * Runs the README's lines as a user would: `readme.ts PROJECT [RANKS]`, where PROJECT has the packages installed. One process a rank, each
 * with a reference engine worker, whose bytes are then compared with the files. Prints what was seen as one line; exit code 1 where a rank
 * failed or a byte differs.
 */
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { EngineProcess, generateCheckpoint } from '@ckpt/testing'
import { transform } from 'esbuild'

const BYTES = 48 * 2 ** 20
const RUN_TIMEOUT_MS = 120_000
/** What the README has instead of an address and a path of this machine. */
const ADDRESS = 'tcp://10.0.0.1:29500'
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
  const options = { cwd: project, timeout: RUN_TIMEOUT_MS }
  const run = promisify(execFile)
  const outcomes = await Promise.all(ranks.map((rank) => run(process.execPath, ['update.mjs', String(rank)], options)))
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

/** What each rank runs: the README's lines, with this machine's address and sockets, as plain JavaScript. */
async function program(): Promise<string> {
  const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
  const lines = /## Use it[\s\S]*?```ts\n([\s\S]*?)```/.exec(readme)?.[1]
  if (lines === undefined) throw new Error('README.md has no TypeScript under "Use it"')
  for (const text of [ADDRESS, SOCKET]) if (!lines.includes(text)) throw new Error(`README's lines no longer have ${text}`)
  const port = 20_000 + (process.pid % 20_000)
  const sockets = JSON.stringify(engines.map(({ socket }) => socket))
  const text = [
    'const rank = Number(process.argv[2])',
    `const worldSize = ${ranks.length}`,
    `const files = ${JSON.stringify(checkpoint.files)}.filter((_, index) => index % worldSize === rank)`,
    lines.replace(ADDRESS, `tcp://127.0.0.1:${port}`).replace(`\`${SOCKET}\``, `${sockets}[rank]`),
  ].join('\n')
  // Node 20 and 22 cannot parse `await using`: compiled as a user's build would.
  return (await transform(text, { loader: 'ts', target: 'node20', format: 'esm' })).code
}
