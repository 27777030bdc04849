/**
 * The rank program: one rank, driven by the process that started it, over a socket that it inherits. The Python package `ckpt`
 * starts it (packages/python/src/ckpt); docs/rank-program.md describes the messages.
 */
import { Socket } from 'node:net'
import { parseArgs } from 'node:util'
import { CkptError } from '@ckpt/contract'
import { withDeadline } from '@ckpt/utils'
import { destination, pino } from 'pino'
import { Rank } from './calls.ts'
import { removeSharedMemory } from './left-behind.ts'
import { Session } from './session.ts'

/** Time for leaving the other ranks and releasing everything, before the process ends anyway. */
const CLOSE_MS = 10_000
/** Interval at which the program looks for the process that started it. */
const PARENT_MS = 250

const { values } = parseArgs({
  options: {
    fd: { type: 'string' },
    parent: { type: 'string' },
    /** What names of the parent's shared memory begin with. */
    label: { type: 'string' },
    'log-level': { type: 'string', default: 'warn' },
  },
})
const { fd, parent, label, 'log-level': level } = values
if (fd === undefined || parent === undefined || !/^ckpt-trainer-\d+-[0-9a-f]{12}-$/.test(label ?? '')) {
  process.stderr.write('ckpt: this program is started by the Python package ckpt, with --fd, --parent and --label\n')
  process.exit(2)
}

const log = pino({ level, base: null }, destination({ fd: 2, sync: true }))
const rank = new Rank(log)
let ending: Promise<void> | undefined
const session = new Session(new Socket({ fd: Number(fd), readable: true, writable: true }), rank, end)

// A child of the parent may keep the socket open beyond its end. A thread of the parent may end before it, so the system's
// own signal at the parent's death (PR_SET_PDEATHSIG) would come too early.
const watch = setInterval(() => {
  if (process.ppid !== Number(parent)) end('the process that started this one has ended')
}, PARENT_MS)
process.on('SIGTERM', () => end('terminated by SIGTERM'))

function end(reason: string): void {
  ending ??= finish(reason)
}

async function finish(reason: string): Promise<void> {
  clearInterval(watch)
  session.abort(reason)
  let code = 0
  try {
    await withDeadline(rank.close(), { what: 'the rank to close', timeoutMs: CLOSE_MS })
    await withDeadline(session.end(), { what: 'the last answer to be sent', timeoutMs: 1000 })
  } catch (error) {
    log.error({ err: CkptError.from(error, 'NATIVE_FAILURE') }, `ending: ${reason}`)
    code = 1
  }
  removeSharedMemory(label!)
  process.exit(code)
}
