#!/usr/bin/env node
// Everything a bare clone needs, with plain Node and nothing installed. Run again it only does what changed.
import { mkdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { fetchLibaegis, libaegisIsHere, libaegisLock } from './lib/libaegis.mjs'
import { pnpm } from './lib/pnpm.mjs'
import { probe, run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'
import { addons, built, forgetInputs, installed, installKey, readStamp, writeStamp } from './lib/stamp.mjs'
import { capabilities, missingMessage, missingSystemPackages } from './lib/system.mjs'

const NODE_MINIMUM = [20, 17]
const INSTALL_TIMEOUT_MS = 20 * 60_000
const BUILD_TIMEOUT_MS = 20 * 60_000

/** A failure whose message says all there is to say. */
export class SetupError extends Error {}

const SELF = fileURLToPath(import.meta.url)
const LOCK_TIMEOUT_S = 30 * 60

/**
 * Brings the clone to a state in which everything runs. Quiet when there is nothing to do. Where there is, a process that holds
 * `.cache/setup.lock` does it; others wait for that one.
 * @returns {Promise<boolean>} true if anything had to be done
 * @throws SetupError
 */
export async function ensureSetup() {
  if (pending().nothing) return false
  mkdirSync(join(ROOT, '.cache'), { recursive: true })
  const file = join(ROOT, '.cache/setup.lock')
  const lock = ['--no-fork', '--timeout', String(LOCK_TIMEOUT_S), '--conflict-exit-code', '75', file]
  if (probe('flock', ['--nonblock', file, 'echo', 'free']) === undefined)
    log('waiting for the set-up that another process is doing')
  const { code } = await run('flock', [...lock, process.execPath, SELF, '--locked'])
  if (code === 127) throw new SetupError('the set-up needs flock: apt-get install util-linux')
  if (code === 75) throw new SetupError(`another set-up has held ${file} for ${LOCK_TIMEOUT_S / 60} minutes`)
  if (code !== 0) throw new SetupError(`the set-up failed with exit code ${code}; its output is above`)
  return true
}

/** What is left to do. */
function pending() {
  const stamp = readStamp()
  const key = installKey()
  const install = stamp.install !== key || !installed()
  const native = addons().filter((addon) => {
    const last = stamp.native[addon.name]
    return last?.key !== addon.key || (last.failed ? !addon.optional : !built(addon.dir))
  })
  return { stamp, key, install, native, nothing: !install && native.length === 0 }
}

async function setUp() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < NODE_MINIMUM[0] || (major === NODE_MINIMUM[0] && minor < NODE_MINIMUM[1])) {
    throw new SetupError(`Node ${NODE_MINIMUM.join('.')} or newer is needed; this is ${process.version}`)
  }
  const missing = missingSystemPackages()
  if (missing.length > 0) throw new SetupError(missingMessage(missing))

  // Asked again: another process may have done it while this one waited for the lock.
  const { stamp, key, install, native } = pending()
  if (install) {
    await step('installing npm packages', () =>
      pnpm(['install', '--frozen-lockfile', '--config.confirmModulesPurge=false'], {
        capture: true,
        timeoutMs: INSTALL_TIMEOUT_MS,
      }),
    )
    stamp.install = key
    writeStamp(stamp)
  }
  // Asked for once for each lock file: a machine without Python, or without a registry, goes on without it.
  if (native.length > 0 && !libaegisIsHere() && stamp.libaegis !== libaegisLock()) {
    await step('fetching the source of libaegis', fetchLibaegis, true)
    stamp.libaegis = libaegisLock()
    writeStamp(stamp)
  }
  // Asked again: what was fetched is an input of the host addon.
  for (const addon of pending().native) {
    if (stamp.native[addon.name]?.inputs !== addon.inputs) forgetInputs(addon.dir)
    const ok = await step(`building ${addon.dir}`, () => build(addon), addon.optional)
    stamp.native[addon.name] = { key: addon.key, inputs: addon.inputs, failed: !ok }
    writeStamp(stamp)
  }
}

function build({ name }) {
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(Math.min(availableParallelism(), 16))
  return pnpm(['--filter', name, 'run', 'build:native'], {
    capture: true,
    timeoutMs: BUILD_TIMEOUT_MS,
    env: { ...process.env, CMAKE_BUILD_PARALLEL_LEVEL: jobs },
  })
}

/** Does one step and prints its name and time; its output only when it fails. */
async function step(what, work, optional = false) {
  const start = performance.now()
  log(`${what} …`)
  const { code, output } = await work()
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  if (code === 0) {
    log(`${what}: done in ${seconds} s`)
    return true
  }
  process.stderr.write(output.endsWith('\n') ? output : `${output}\n`)
  if (!optional) throw new SetupError(`${what} failed with exit code ${code}; its output is above`)
  log(`${what} failed (exit code ${code}); it is optional, so the set-up goes on without it`)
  return false
}

/** One line for each thing that is ready, or that is optional and missing. */
function summary() {
  const { stamp } = pending()
  log('ready: npm packages')
  for (const { name, dir } of addons()) {
    log(stamp.native[name]?.failed ? `not built: ${dir} (optional)` : `ready: ${dir}`)
  }
  for (const [name, reason] of Object.entries(capabilities(ROOT))) {
    log(reason === undefined ? `ready: ${name} (optional)` : `optional, not here: ${name} – ${reason}`)
  }
}

// To stderr: a program whose output is read by another must not find these lines in it.
function log(text) {
  process.stderr.write(`setup: ${text}\n`)
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    const start = performance.now()
    if (process.argv.includes('--locked')) await setUp()
    else if (await ensureSetup()) summary()
    else log(`nothing to do (${((performance.now() - start) / 1000).toFixed(2)} s)`)
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    process.stderr.write(`${error.message}\n`)
    process.exitCode = 1
  }
}
