import { execFile, spawnSync } from 'node:child_process'
import { promisify } from 'node:util'

/** Targets of a process: files to read and to change, directories to list, unix sockets to connect to, URLs to request. */
export interface Targets {
  readonly read: readonly string[]
  readonly write: readonly string[]
  readonly list: readonly string[]
  readonly connect: readonly string[]
  /** Answers are reported by their status. */
  readonly fetch?: readonly string[]
}

/** `ok`, or the error's code, for each attempt. */
export type Attempts = Readonly<Record<string, string>>

const PROGRAM = `
const fs = require('node:fs'), net = require('node:net')
const { read, write, list, connect, fetch: urls = [] } = JSON.parse(fs.readFileSync(0, 'utf8'))
const result = {}
const attempt = (what, work) => { try { work(); result[what] = 'ok' } catch (error) { result[what] = error.code } }
for (const path of read) attempt('read ' + path, () => { const fd = fs.openSync(path, 'r'); fs.readSync(fd, Buffer.alloc(1)); fs.closeSync(fd) })
for (const path of write) attempt('write ' + path, () => fs.closeSync(fs.openSync(path, 'r+')))
for (const path of list) attempt('list ' + path, () => fs.readdirSync(path))
Promise.all([...connect.map((path) => new Promise((resolve) => {
  const socket = net.connect(path, () => { result['connect ' + path] = 'ok'; socket.destroy(); resolve() })
  socket.on('error', (error) => { result['connect ' + path] = error.code; resolve() })
})), ...urls.map(async (url) => { result['fetch ' + url] = String((await fetch(url)).status) })]).then(() => console.log(JSON.stringify(result)))
`

/** Tries the targets in a process of the user `uid`, without any groups. The caller must be root. */
export async function attemptAs(uid: number, targets: Targets): Promise<Attempts> {
  const user = [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups']
  const attempt = promisify(execFile)('setpriv', [...user, process.execPath, '-e', PROGRAM], {
    cwd: '/',
    env: {},
    timeout: 30_000,
  })
  attempt.child.stdin!.end(JSON.stringify(targets))
  return JSON.parse((await attempt).stdout) as Attempts
}

/** Returns the reason why {@link attemptAs} cannot be used here; undefined if it can. */
export function noOtherUser(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can switch to a different user'
  const { error, status } = spawnSync('setpriv', ['--version'])
  return error || status !== 0 ? 'there is no setpriv' : undefined
}
