import { readFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { run } from '../lib/process.mjs'
import { ROOT } from '../lib/root.mjs'
import { sourceArguments } from '../lib/source.mjs'

const RUN_TIMEOUT_MS = 120_000

/** The first block of TypeScript under README's "Use it": the lines that users copy. */
export function readmeLines() {
  const match = /## Use it[\s\S]*?```ts\n([\s\S]*?)```/.exec(readFileSync(join(ROOT, 'README.md'), 'utf8'))
  if (match === null) throw new Error('README.md has no TypeScript under "Use it"')
  return match[1]
}

/**
 * Runs README's lines in `project`, one process a rank, with a reference engine worker of the repository each, whose bytes are then
 * compared with the files.
 * @returns {Promise<{ ranks: number, bytes: number, tensors: number, output: string }>}
 * @throws Error with what a rank printed, or with the tensors that differ
 */
export async function runReadme(project, ranks = 2) {
  const address = 'tcp://10.0.0.1:29500'
  const socket = '/run/engine/${rank}.sock'
  const lines = readmeLines()
  for (const text of [address, socket]) if (!lines.includes(text)) throw new Error(`README's lines no longer have ${text}`)
  const engines = await startEngines(project, ranks)
  try {
    const { files, sockets, bytes, tensors } = engines.started
    const port = 20_000 + (process.pid % 20_000)
    const program = [
      'const rank = Number(process.argv[2])',
      `const worldSize = ${ranks}`,
      `const files = ${JSON.stringify(files)}.filter((_, index) => index % worldSize === rank)`,
      lines.replace(address, `tcp://127.0.0.1:${port}`).replace(`\`${socket}\``, `${JSON.stringify(sockets)}[rank]`),
    ].join('\n')
    // Node 20 and 22 cannot parse `await using`: compiled as a user's build would.
    const { transform } = await import('esbuild')
    const { code } = await transform(program, { loader: 'ts', target: 'node20', format: 'esm' })
    writeFileSync(join(project, 'update.mjs'), code)
    const outcomes = await Promise.all(
      Array.from({ length: ranks }, (_, rank) =>
        run(process.execPath, ['update.mjs', String(rank)], { cwd: project, capture: true, timeoutMs: RUN_TIMEOUT_MS }),
      ),
    )
    const failed = outcomes.findIndex(({ code: status }) => status !== 0)
    if (failed >= 0) throw new Error(`rank ${failed} of README's lines failed:\n${outcomes[failed].output}`)
    const { verified, health } = await engines.verify()
    const wrong = verified.flatMap(({ mismatches }) => mismatches)
    if (wrong.length > 0) throw new Error(`the engines' bytes differ from the files': ${wrong.slice(0, 5).join(', ')}`)
    if (health.some(({ version }) => version !== 'step-42'))
      throw new Error(`the engines serve ${health.map(({ version }) => version)}`)
    return { ranks, bytes, tensors, output: outcomes[0].output.trim() }
  } finally {
    await engines.stop()
  }
}

async function startEngines(directory, ranks) {
  const program = sourceArguments('apps/harness/src/standalone.ts')
  const child = spawn(process.execPath, [...program, directory, String(ranks)], {
    cwd: ROOT,
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const next = async () => {
    const { value, done } = await lines.next()
    if (done) throw new Error(`the engines ended (${child.exitCode ?? child.signalCode})`)
    return JSON.parse(value)
  }
  const started = await next()
  return {
    started,
    verify() {
      child.stdin.write('\n')
      return next()
    },
    stop() {
      child.stdin.end()
      return child.exitCode !== null ? undefined : new Promise((resolve) => child.once('exit', resolve))
    },
  }
}
