/**
 * The reference engine as a process: `node main.ts --control PATH --checkpoint DIR --tp-rank R --tp-size N`. Only names and
 * shapes are read from the checkpoint, as an engine reads a model's configuration; weights arrive through updates.
 */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { CkptError } from '@ckpt/contract'
import { readIndex } from '@ckpt/safetensors'
import { createHost } from '@ckpt/transport'
import { z } from 'zod'
import { ArmedMutation } from '../mutations/armed.ts'
import { failure, serveControl, type Answer } from './control-server.ts'
import { InjectedFaults } from './injected-faults.ts'
import { KeptRing } from './kept-ring.ts'
import { Parameters } from './parameters.ts'
import { runUpdateSession } from './update-session.ts'

/** Time in milliseconds for which an update waits for the end of the previous one. */
const PATIENCE_MS = 5000
const updateSchema = z.object({ address: z.string().startsWith('ipc://'), token: z.string(), timeoutMs: z.number().positive() })
const mutateSchema = z.object({ mutation: z.unknown() })
const verifySchema = z.object({ files: z.array(z.string()).min(1) })

const { values } = parseArgs({
  options: {
    control: { type: 'string' },
    checkpoint: { type: 'string' },
    'tp-rank': { type: 'string', default: '0' },
    'tp-size': { type: 'string', default: '1' },
    threads: { type: 'string', default: '1' },
    'device-uuid': { type: 'string', default: '' },
    // Fault injection for tests: raise, exit, or stop (until SIGCONT), before this bucket of the next update is loaded.
    'fail-at-bucket': { type: 'string' },
    // Answers each call this many milliseconds after its update has ended.
    'answer-after': { type: 'string', default: '0' },
    'exit-at-bucket': { type: 'string' },
    // Raise, or exit, at the release of the first direct update: its bytes have been written by then.
    'fail-direct': { type: 'boolean', default: false },
    'exit-direct': { type: 'boolean', default: false },
    // Parameters in memory that no other process can map.
    unshared: { type: 'boolean', default: false },
    // Drops every recording before the next update, like an engine whose parameters move between updates.
    forgetful: { type: 'boolean', default: false },
    'stop-at-bucket': { type: 'string' },
    'fail-at-commit': { type: 'boolean', default: false },
    // Number of successful updates before the fault.
    'spare-updates': { type: 'string', default: '0' },
  },
})
if (values.control === undefined || values.checkpoint === undefined) {
  process.stderr.write('usage: main.ts --control PATH --checkpoint DIR [--tp-rank R] [--tp-size N] [--threads T]\n')
  process.exit(2)
}

const control = values.control
const host = createHost()
const rings = new KeptRing(host)
const index = await readIndex(values.checkpoint)
const parameters = await Parameters.allocate(
  host,
  index.headers.flatMap(({ tensors }) => tensors.map((tensor) => ({ ...tensor, bytes: tensor.end - tensor.begin }))),
  { tpRank: Number(values['tp-rank']), tpSize: Number(values['tp-size']), threads: Number(values.threads) },
)
let version: string | null = null
let dirty = false
/** Name of the parameters' contents; new whenever they change except by loading. */
let state = randomUUID()
let updating = false
let ended = Promise.resolve()
const faults = new InjectedFaults()
const mutation = new ArmedMutation()
let recorded = false
let failDirect = values['fail-direct']
let spare = Number(values['spare-updates'])
let failAtCommit = values['fail-at-commit']
let failAt = values['fail-at-bucket'] === undefined ? undefined : Number(values['fail-at-bucket'])
const exitAt = values['exit-at-bucket'] === undefined ? undefined : Number(values['exit-at-bucket'])
const stopAt = values['stop-at-bucket'] === undefined ? undefined : Number(values['stop-at-bucket'])

async function update(body: unknown): Promise<Answer> {
  const { address, token, timeoutMs } = updateSchema.parse(body)
  // The previous one may have failed, and is about to notice.
  if (updating) await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))])
  if (updating) return failure(409, new CkptError('INVALID_STATE', 'an update is already running'))
  updating = true
  let end: () => void = () => undefined
  ended = new Promise((resolve) => (end = resolve))
  try {
    const outcome = await runUpdateSession({
      host,
      rings,
      parameters,
      address,
      token,
      timeoutMs,
      device: values['device-uuid'],
      recorded: recorded && !values.forgetful,
      shared: !values.unshared,
      mutation,
      onDirect: () => (dirty = true),
      afterDirect() {
        if (values['exit-direct']) process.exit(9)
        if (!failDirect) return
        failDirect = false
        throw new Error('injected failure after a direct write')
      },
      state,
      async before(message) {
        await faults.before(message)
        if (spare > 0) return
        if (message.type === 'commit' && failAtCommit) {
          failAtCommit = false
          throw new Error('injected failure at commit')
        }
        if (message.type !== 'bucket') return
        const { bucket } = message
        if (bucket === exitAt) process.exit(9)
        if (bucket === stopAt) process.kill(process.pid, 'SIGSTOP')
        if (bucket !== failAt) return
        failAt = undefined
        throw new Error(`injected failure at bucket ${bucket}`)
      },
    })
    if (outcome.version !== undefined) {
      version = outcome.version
      dirty = false
      recorded ||= outcome.recorded === true
      state = randomUUID()
      spare--
      return { status: 200, body: { version } }
    }
    dirty ||= outcome.touched
    const error = outcome.error ?? new CkptError('ABORTED', `the update was aborted: ${outcome.reason ?? ''}`)
    return failure(outcome.error ? 500 : 409, error)
  } finally {
    updating = false
    end()
  }
}

const server = await serveControl(control, {
  'GET /health': () => Promise.resolve({ status: 200, body: { device: values['device-uuid'], version, dirty } }),
  async 'POST /update'(body) {
    const answer = await update(body)
    await new Promise((resolve) => setTimeout(resolve, Number(values['answer-after'])))
    return answer
  },
  'GET /digests': async () => {
    const digests = await parameters.digests()
    return {
      status: 200,
      body: { digests: Object.fromEntries([...digests].map(([name, value]) => [name, value.toString(16).padStart(16, '0')])) },
    }
  },
  'POST /verify': async (body) => ({ status: 200, body: await parameters.verify(verifySchema.parse(body).files) }),
  'POST /poison': async () => {
    await parameters.poison()
    dirty = true
    state = randomUUID()
    return { status: 200, body: {} }
  },
  'POST /mutate': (body) => {
    mutation.arm(mutateSchema.parse(body).mutation)
    return Promise.resolve({ status: 200, body: {} })
  },
  'POST /fault': (body) => {
    faults.arm(body)
    return Promise.resolve({ status: 200, body: {} })
  },
  // A child that inherits the connections: they stay open when this process is killed (for fault tests).
  'POST /heir': () => {
    const heir = spawn('sleep', ['30'], { stdio: ['ignore', 'ignore', 'ignore', ...server.connections] })
    return Promise.resolve({ status: 200, body: { pid: heir.pid } })
  },
  'POST /exit': () => {
    setImmediate(() => void stop(0))
    return Promise.resolve({ status: 200, body: {} })
  },
})

async function stop(code: number): Promise<void> {
  await Promise.race([server.close(), new Promise((resolve) => setTimeout(resolve, 200))])
  process.exit(code)
}

process.on('exit', () => {
  rmSync(control, { force: true })
  parameters.close()
})
process.on('SIGINT', () => void stop(130))
process.on('SIGTERM', () => void stop(143))
// An engine whose parent has ended serves nobody.
process.on('disconnect', () => void stop(0))
