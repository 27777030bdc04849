import { readFileSync, readdirSync, readlinkSync } from 'node:fs'

/** How often a process is looked at, in milliseconds. */
const EVERY_MS = 200
/** Flags of a task (Linux, include/linux/sched.h): it is on its way out; a signal ended it. */
const PF_EXITING = 0x4
const PF_SIGNALED = 0x400
const SIGKILL_PENDING = 1 << 8

/** What /proc says of a process, or of one of its threads. */
interface TaskState {
  readonly state: string
  readonly flags: number
  /** When it started, in clock ticks since the machine did. */
  readonly start: string
  /** The lower signals that wait for it. */
  readonly pending: number
}

/**
 * Names a process of this machine so that a process id is not taken for another's: its PID namespace, and when it started. Nothing where
 * /proc does not say.
 */
export function processMark(): string | undefined {
  const namespace = ownNamespace()
  const task = taskState('/proc/self/stat')
  return namespace === undefined || task === undefined ? undefined : `${namespace}:${task.start}`
}

/** The part of {@link processMark} that all processes have in common that can see each other by the same ids. */
function ownNamespace(): string | undefined {
  try {
    return /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0]
  } catch {
    return undefined
  }
}

/**
 * Calls `onEnd` once, as soon as the process has ended or can do nothing but end: it was killed, though it may take seconds to give its
 * memory back (a GPU's, or hundreds of gigabytes) before its connections break, or others hold these open. Watches nothing where
 * `mark`, as of {@link processMark}, is of a process that this one does not see by `pid`.
 *
 * @returns what ends the watch
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

/** Whether the process runs, or may run again. */
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

/** Fields 3, 9, 22 and 31 of proc_pid_stat(5); the name before them may hold anything. */
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
