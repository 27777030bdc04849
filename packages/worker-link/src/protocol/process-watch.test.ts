import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { processMark, watchProcess } from './process-watch.ts'

const children: ChildProcess[] = []
const watches: (() => void)[] = []

afterEach(() => {
  for (const end of watches.splice(0)) end()
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

/** A process that has printed a line, and that line. */
async function start(command: string, ...args: string[]): Promise<{ pid: number; child: ChildProcess; line: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  children.push(child)
  const [data] = (await once(child.stdout, 'data')) as [Buffer]
  return { pid: child.pid!, child, line: data.toString().trim() }
}

const stat = (pid: number) =>
  readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /, '')
    .split(' ')

/** A process's mark, as the process itself would report it. */
const markOf = (pid: number) => `${processMark()!.split(':')[0]}:${stat(pid)[19]}`

function watch(pid: number, mark: string): { ended: boolean; end: Promise<void> } {
  const seen = { ended: false, end: Promise.resolve() }
  seen.end = new Promise((resolve) => {
    watches.push(
      watchProcess(pid, mark, () => {
        seen.ended = true
        resolve()
      }),
    )
  })
  return seen
}

/** Maps shared memory so often that ending the process takes long. */
const SLOW_TO_DIE = `
import mmap, os, time
fd = os.memfd_create("x")
os.ftruncate(fd, 64 << 20)
maps = [mmap.mmap(fd, 64 << 20, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE) for _ in range(250)]
print("ready", flush=True)
time.sleep(60)
`

describe('a watched process', () => {
  it('is known to end when it is killed, though it takes its time', { timeout: 30_000 }, async () => {
    const { pid, child } = await start('python3', '-c', SLOW_TO_DIE)
    const seen = watch(pid, markOf(pid))
    await sleep(500)
    expect(seen.ended).toBe(false)
    const killed = performance.now()
    const gone = once(child, 'exit').then(() => performance.now() - killed)
    child.kill('SIGKILL')
    await seen.end
    const known = performance.now() - killed
    console.log(`a killed process was known to die after ${known.toFixed(0)} ms, gone after ${(await gone).toFixed(0)} ms`)
    expect(known).toBeLessThan(500)
    expect(known).toBeLessThan(await gone)
  })

  it('is known to end though nobody has asked for its exit code', async () => {
    // The shell replaces itself with a program that does not know its child.
    const { line } = await start('sh', '-c', 'sleep 60 & echo $!; exec sleep 61')
    const pid = Number(line)
    const seen = watch(pid, markOf(pid))
    process.kill(pid, 'SIGKILL')
    await seen.end
    expect(stat(pid)[0]).toBe('Z')
  })

  it('goes on while it is stopped, and is known to end when it is killed then', async () => {
    const { pid } = await start('sh', '-c', 'echo; exec sleep 60')
    const seen = watch(pid, markOf(pid))
    process.kill(pid, 'SIGSTOP')
    await sleep(500)
    expect(seen.ended).toBe(false)
    process.kill(pid, 'SIGKILL')
    await seen.end
  })

  it('goes on when only its main thread has ended', async () => {
    const program = `
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
`
    const { pid } = await start('python3', '-c', program)
    await expect.poll(() => stat(pid)[0]).toBe('Z')
    const seen = watch(pid, markOf(pid))
    await sleep(500)
    expect(seen.ended).toBe(false)
    process.kill(pid, 'SIGKILL')
    await seen.end
  })

  it('is not taken for an older one of the same id, nor for one of another namespace', async () => {
    const mark = processMark()!
    const [namespace, start] = mark.split(':') as [string, string]
    const own = watch(process.pid, mark)
    const older = watch(process.pid, `${namespace}:${Number(start) - 1}`)
    const elsewhere = [watch(2 ** 22 + 1, `1${namespace}:${start}`), watch(0, mark), watch(2 ** 22 + 1, 'nonsense')]
    await older.end
    await sleep(500)
    expect([own, ...elsewhere].map(({ ended }) => ended)).toEqual([false, false, false, false])
  })
})
