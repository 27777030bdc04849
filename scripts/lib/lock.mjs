import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const POLL_MS = 250

/**
 * Runs `work` while no other process holds the lock file; a lock whose process is gone is taken over.
 * @throws Error when another process keeps it longer than `timeoutMs`.
 */
export async function withLock(path, work, { timeoutMs = 30 * 60_000, onWait = () => {} } = {}) {
  mkdirSync(dirname(path), { recursive: true })
  const deadline = Date.now() + timeoutMs
  let told = false
  while (!take(path)) {
    const holder = readHolder(path)
    if (holder !== undefined && !alive(holder)) {
      takeAway(path, holder)
      continue
    }
    if (Date.now() > deadline)
      throw new Error(`${path} is held by process ${holder ?? '?'} for too long; remove it if that is wrong`)
    if (!told) onWait(holder)
    told = true
    await sleep(POLL_MS)
  }
  const release = () => {
    if (readHolder(path) === process.pid) rmSync(path, { force: true })
  }
  process.once('exit', release)
  try {
    return await work()
  } finally {
    process.off('exit', release)
    release()
  }
}

function take(path) {
  try {
    writeFileSync(path, String(process.pid), { flag: 'wx' })
    return true
  } catch (error) {
    if (error.code === 'EEXIST') return false
    throw error
  }
}

/** Removes the lock of a process that is gone; leaves it where another process was quicker and holds it by now. */
function takeAway(path, holder) {
  const aside = `${path}.${process.pid}`
  try {
    renameSync(path, aside)
    if (readHolder(aside) !== holder) linkSync(aside, path)
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'EEXIST') throw error
  }
  rmSync(aside, { force: true })
}

/** The holder's process id; undefined while it is being written or after it was removed. */
function readHolder(path) {
  try {
    return Number(readFileSync(path, 'utf8')) || undefined
  } catch {
    return undefined
  }
}

function alive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}
