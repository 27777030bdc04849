import { readFileSync, readdirSync, readlinkSync } from 'node:fs'

/** Interval in milliseconds for checking a process. */
const EVERY_MS = 200
/** Flags of a task (Linux, include/linux/sched.h): it is exiting; a signal ended it. */
const PF_EXITING = 0x4
const PF_SIGNALED = 0x400
const SIGKILL_PENDING = 1 << 8

/** State of a process, or of one of its threads, from /proc. */
interface TaskState {
  readonly state: string
  readonly flags: number
  /** Start time, in clock ticks since the machine started. */
  readonly start: string
  /** Pending signals (the lower ones). */
  readonly pending: number
}

/**
 * Names a process of this machine so that its process id cannot be confused with another's: its PID namespace, and its start
 * time. Undefined if /proc does not report them.
 */
export function processMark(): string | undefined {
  const namespace = ownNamespace()
  const task = taskState('/proc/self/stat')
  return namespace === undefined || task === undefined ? undefined : `${namespace}:${task.start}`
}

/** Part of {@link processMark} that is common to all processes that see each other by the same ids. */
function ownNamespace(): string | undefined {
  try {
    return /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0]
  } catch {
    return undefined
  }
}

/**
 * Calls `onEnd` once, as soon as the process has ended or is certainly ending: it was killed, though it may take seconds to
 * release its memory (a GPU's, or hundreds of gigabytes) before its connections break, or others hold these open. Watches
 * nothing if `mark`, as in {@link processMark}, belongs to a process that this one does not see by `pid`.
 *
 * @returns a function that ends the watch
 */
export function watchProcess(pid: number, mark: string, onEnd: () => void): () => void {
  const [namespace, start] = mark.split(':')
  if (pid === 0 || namespace !== ownNamespace()) return () => undefined
  const timer = setInterval(() => {
    if (isAlive(pid, start)) return
    clearInterval(timer)
    onEnd()
  }, EVERY_MS)
  timer.unref()
  return () => clearInterval(timer)
}

/** Returns true if the process runs, or may run again. */
function isAlive(pid: number, start: string | undefined): boolean {
  const leader = taskState(`/proc/${pid}/stat`)
  if (leader === undefined || leader.start !== start) return false
  if (killed(leader)) return false
  if (!exiting(leader)) return true
  // A main thread may end before the others.
  return tasks(pid).some((task) => !exiting(task) && !killed(task))
}

function killed({ flags, pending }: TaskState): boolean {
  return (flags & PF_SIGNALED) !== 0 || (pending & SIGKILL_PENDING) !== 0
}

function exiting({ state, flags }: TaskState): boolean {
  return 'ZX'.includes(state) || (flags & PF_EXITING) !== 0
}

function tasks(pid: number): TaskState[] {
  try {
    return readdirSync(`/proc/${pid}/task`).flatMap((id) => taskState(`/proc/${pid}/task/${id}/stat`) ?? [])
  } catch {
    return []
  }
}

/** Fields 3, 9, 22 and 31 of proc_pid_stat(5); the name before them may contain anything. */
function taskState(path: string): TaskState | undefined {
  let text: string
  try {
    text = readFileSync(path, 'latin1')
  } catch {
    return undefined
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, flags, start, pending] = [fields[0], fields[6], fields[19], fields[28]]
  if (state === undefined || flags === undefined || start === undefined || pending === undefined) return undefined
  return { state, flags: Number(flags), start, pending: Number(pending) }
}
