/**
 * A newcomer's path, timed: clone, `npm run bench` up to its first verified update and to its end, `npm test`. Everything is fetched
 * and built again: the home directory is empty. `npm run newcomer [-- --from URL|PATH] [--only bench|test] [--keep]`
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { probe, run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'

const STEPS = ['bench', 'test']
const { values } = parseArgs({
  options: {
    from: { type: 'string', default: ROOT },
    only: { type: 'string' },
    keep: { type: 'boolean' },
    help: { type: 'boolean' },
  },
})
if (values.help || (values.only !== undefined && !STEPS.includes(values.only))) {
  process.stdout.write('usage: npm run newcomer -- [--from URL|PATH] [--only bench|test] [--keep]\n')
  process.exit(values.help ? 0 : 2)
}

const scratch = mkdtempSync(join(tmpdir(), 'ckpt-newcomer-'))
const clone = join(scratch, 'ckpt')
const home = join(scratch, 'home')
mkdirSync(home)
const env: NodeJS.ProcessEnv = {
  PATH: process.env['PATH'],
  HOME: home,
  // Where this machine reaches a registry in its own way, a newcomer to it does, too.
  npm_config_registry: probe('npm', ['config', 'get', 'registry']),
  CKPT_BENCH_STEPS: '1',
}
for (const name of ['http_proxy', 'https_proxy', 'no_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY', 'SSL_CERT_FILE'])
  if (process.env[name] !== undefined) env[name] = process.env[name]

const begun = performance.now()
try {
  await step(`git clone --quiet ${values.from} ckpt`, scratch)
  if (values.only !== 'test') {
    // The bench names its steps: the one after the first verification says that that one is over.
    let state = 'before'
    await step('npm run bench', clone, (line) => {
      if (state === 'verifying') {
        report('first verified update')
        state = 'verified'
      }
      if (state === 'before' && / comparing the files after first$/.test(line)) state = 'verifying'
    })
  }
  if (values.only !== 'bench') {
    await step('npm test', clone, (line) => {
      if (/^\d+ passed, \d+ failed/.test(line)) report(line)
    })
  }
} catch (error) {
  process.stdout.write(`${(error as Error).message}\n`)
  process.exitCode = 1
} finally {
  if (values.keep) process.stdout.write(`kept ${scratch}\n`)
  else rmSync(scratch, { recursive: true, force: true })
}

/** Seconds since the clone began, and what had happened by then. */
function report(what: string): void {
  process.stdout.write(`${((performance.now() - begun) / 1000).toFixed(0).padStart(6)} s  ${what}\n`)
}

/** Runs a program to its end and reports that; its output goes to `onLine`, and is shown where it fails. */
async function step(line: string, cwd: string, onLine?: (line: string) => void): Promise<void> {
  const [command, ...args] = line.split(' ')
  const { code, output } = await run(command!, args, { cwd, env, capture: true, ...(onLine && { onLine }) })
  if (code !== 0) throw new Error(`${line} failed (${code}):\n${output.split('\n').slice(-40).join('\n')}`)
  report(`${line} done`)
}
