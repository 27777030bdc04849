import { execFileSync } from 'node:child_process'
import {
  accessSync,
  chownSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { CkptError, memoryPlace, type StorageHandle, type WorkerStorage } from '@ckpt/contract'
import { createHostDevice } from './device.ts'

// Maps the answers of hostile engines and ranks, under strace: foreign.test.ts reads from the trace what was opened for
// writing.

const [directory, seed, count] = process.argv.slice(2) as [string, string, string]
const device = await createHostDevice()
const { host } = device
const direct = device.direct!

/** Reproducible: mulberry32. */
let state = Number(seed)
function random(below: number): number {
  state = (state + 0x6d2b79f5) | 0
  let t = Math.imul(state ^ (state >>> 15), 1 | state)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below)
}
const pick = <const T>(...values: readonly [T, ...T[]]): T => values[random(values.length)]!

const shm = `/dev/shm/ckpt-test-${process.pid}`
const victim = `${directory}/victim`
writeFileSync(victim, 'untouched'.repeat(1000))
mkdirSync(shm)
symlinkSync(victim, `${shm}/link`)
symlinkSync(directory, `${shm}/directory-link`)
execFileSync('mkfifo', [`${shm}/fifo`])
writeFileSync(`${shm}/empty`, '')
writeFileSync(`${shm}/other`, Buffer.alloc(8192, 1))
// Only root can give a file away; for others every file of /dev/shm is their own.
if (process.getuid?.() === 0) chownSync(`${shm}/other`, 65_534, 65_534)
const named = await host.createShared(`ckpt-test-${process.pid}-named`, { bytes: 8192, lock: false })
const hidden = await host.allocate({ bytes: 8192, shareable: true, lock: false })
const start = readFileSync('/proc/self/stat', 'latin1')
  .replace(/^.*\) /s, '')
  .split(' ')[19]!
const own = { pid: process.pid, mark: `${/\d+/.exec(readlinkSync('/proc/self/ns/pid'))![0]}:${start}` }
const honest = [
  { path: `/dev/shm/${named.name}`, identity: named.identity! },
  { path: `/proc/${process.pid}/fd/${hidden.identity!.descriptor}`, identity: hidden.identity! },
] as const
const victimMemory = await host.mapFile(victim)
const victimFd = victimMemory.identity!.descriptor!

const paths = [
  victim,
  `${shm}/link`,
  `${shm}/directory-link/victim`,
  `${shm}/fifo`,
  `${shm}/empty`,
  `${shm}/other`,
  shm,
  '/dev/shm',
  '/dev/shm/',
  `/dev/shm/../..${victim}`,
  `/dev/shm/./${named.name}`,
  `/dev/shm//${named.name}`,
  `/dev/shm/${'a'.repeat(300)}`,
  `/dev/shm/${named.name}\0`,
  `/dev/shm/none-${process.pid}`,
  `/proc/${process.pid}/fd/${victimFd}`,
  `/proc/${process.pid}/fd/0`,
  `/proc/${process.pid}/fd/999999`,
  `/proc/${process.pid}/fd/99999999999999999999`,
  `/proc/${process.pid}/root${victim}`,
  `/proc/${process.pid}/cwd`,
  `/proc/${process.pid}/mem`,
  '/proc/1/fd/0',
  '/proc/1/environ',
  '/proc/self/fd/0',
  '/proc/self/mem',
  '/etc/passwd',
  '/dev/null',
  '/dev/zero',
  '',
  'victim',
  ...honest.map(({ path }) => path),
] as const

/** Returns a storage as a hostile worker gives it: an honest one in which up to three values are wrong. */
function storage(): { said: WorkerStorage; honest: boolean } {
  const real = honest[random(2)]!
  const { device: on, inode, bytes: size } = real.identity
  const handle = { kind: 'file', path: real.path, offset: 0, bytes: 4096, device: on, inode, size } as {
    -readonly [K in keyof (StorageHandle & { kind: 'file' })]: (StorageHandle & { kind: 'file' })[K]
  }
  let process_: WorkerStorage['process'] = own
  const lies = random(4)
  for (let lie = 0; lie < lies; lie++) {
    const number = pick(0, 1, 4096, 8192, 8193, 2 ** 31, 2 ** 32, 2 ** 52, Number.MAX_SAFE_INTEGER)
    const text = pick('0', '1', String(random(2 ** 31)), '18446744073709551615', '99999999999999999999', '')
    const part = random(8)
    if (part < 2) handle.path = paths[random(paths.length)]!
    else if (part === 2) handle.offset = number
    else if (part === 3) handle.bytes = number
    else if (part === 4) handle.size = pick(number, undefined)
    else if (part === 5) handle.device = pick(text, undefined)
    else if (part === 6) handle.inode = pick(text, undefined)
    else process_ = pick(undefined, { pid: 1, mark: own.mark }, { pid: own.pid, mark: '1:1' }, { pid: own.pid, mark: 'x' })
  }
  const same = honest.find(({ path, identity }) => path === handle.path && identity.inode === handle.inode)
  const inside = handle.offset + handle.bytes <= 8192
  const fits = same !== undefined && handle.device === same.identity.device && handle.size === 8192 && inside
  const reached = !handle.path.startsWith('/proc') || process_ === own
  return { said: { handle, process: process_, what: 'storage 0' }, honest: fits && reached }
}

const open = (): number => readdirSync('/proc/self/fd').length
const mapped = (): number =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => /shm|memfd|victim/.test(line)).length
const codes: Record<string, number> = {}
const wrong: string[] = []
await direct
  .map([{ handle: { kind: 'file', ...storageOf(honest[0]) }, process: own, what: 'warm-up' }])
  .then((one) => one.close())
const before = [open(), mapped()]
accessIgnored('/ckpt-trace-begins')
for (let i = 0; i < Number(count); i++) {
  const { said, honest: fits } = storage()
  const { handle } = said
  let code = 'mapped'
  try {
    if (
      random(3) > 0 ||
      handle.kind !== 'file' ||
      handle.device === undefined ||
      handle.inode === undefined ||
      handle.size === undefined
    ) {
      // An honest one before it, which must be released too.
      const first = { handle: { kind: 'file' as const, ...storageOf(honest[0]) }, process: own, what: 'storage of another' }
      await (await direct.map([first, said])).close()
      if (!fits) wrong.push(JSON.stringify(said))
    } else {
      const { device: on, inode, size: bytes } = handle
      const place =
        random(2) === 0
          ? memoryPlace(handle.path, said.process, 'segment 0 of rank 1')
          : ({
              kind: 'descriptor',
              process: said.process ?? { pid: random(2 ** 31), mark: '' },
              descriptor: random(2 ** 30),
            } as const)
      const memory = await direct.mapMemory({ place, identity: { device: on, inode, bytes } }, 'segment 0 of rank 1')
      if (!honest.some(({ identity }) => identity.inode === inode && identity.device === on) || bytes !== 8192) {
        wrong.push(JSON.stringify([place, handle]))
      }
      memory.close()
    }
    if (fits) codes['honest'] = (codes['honest'] ?? 0) + 1
  } catch (error) {
    code = CkptError.is(error) ? error.code : `${(error as Error).name}: ${(error as Error).message}`
    if (!(error as Error).message.includes('storage') && !(error as Error).message.includes('segment')) {
      wrong.push(`does not say whose it is: ${(error as Error).message}`)
    }
  }
  codes[code] = (codes[code] ?? 0) + 1
}
accessIgnored('/ckpt-trace-ends')
const after = [open(), mapped()]
const intact = readFileSync(victim, 'latin1') === 'untouched'.repeat(1000)
rmSync(shm, { recursive: true })
named.unlink()
victimMemory.close()
console.log(JSON.stringify({ codes, wrong, before, after, intact }))
await device.close()

function storageOf({ path, identity }: (typeof honest)[number]) {
  return { path, offset: 0, bytes: 4096, device: identity.device, inode: identity.inode, size: identity.bytes }
}

/** Visible in the trace. */
function accessIgnored(path: string): void {
  try {
    accessSync(path)
  } catch {
    // There is no such file.
  }
}
