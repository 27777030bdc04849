import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { EXEC_ARGV, runMembers } from '../processes.fixture.ts'
import type { ChildOrder } from './member.child.ts'
import { removeStaleRings } from './ring.ts'

/** Runs every member in a separate process. */
const cluster = (members: number, order: (position: number) => Partial<ChildOrder>) =>
  runMembers<ChildOrder, number>(
    new URL('./member.child.ts', import.meta.url),
    Array.from({ length: members }, (_, position) => ({
      position,
      members,
      runs: 1,
      timeoutMs: 20_000,
      then: 'go on' as const,
      ...order(position),
    })),
  )

const ringsOf = (pid: number): string[] => readdirSync('/dev/shm').filter((name) => name.startsWith(`ckpt-${pid}-`))

describe('members in processes of their own', () => {
  it('deliver every byte, and leave nothing in /dev/shm', async () => {
    const outcomes = await cluster(3, () => ({ runs: 2 }))
    for (const { end, code, pid } of outcomes) {
      expect(end).toEqual({ type: 'done', result: 60 })
      expect(code).toBe(0)
      expect(ringsOf(pid)).toEqual([])
    }
  })

  it('name a member that was killed; its ring is removed by a later process', async () => {
    const outcomes = await cluster(3, (position) => ({ timeoutMs: 1000, ...(position === 1 && { then: 'kill' }) }))
    expect(outcomes[1]!.signal).toBe('SIGKILL')
    for (const { end, code } of [outcomes[0]!, outcomes[2]!]) {
      expect(code).toBe(0)
      if (end?.type !== 'failed') return expect.unreachable(`the run must fail: ${JSON.stringify(end)}`)
      expect(['TIMEOUT', 'ABORTED']).toContain(end.error.code)
      expect(end.error.message).toContain('member 1')
    }
    const survivors = [outcomes[0]!, outcomes[2]!].map(({ end }) => (end?.type === 'failed' ? end.error : undefined))
    expect(survivors.find((error) => error?.code === 'TIMEOUT')?.fields['member']).toBe(1)

    // Any other process that creates a device removes it too: it may be gone already.
    await removeStaleRings()
    expect(ringsOf(outcomes[1]!.pid)).toEqual([])
  })

  it('end cleanly by process.exit in the middle of a run', async () => {
    const outcomes = await cluster(2, (position) => ({ timeoutMs: 1000, ...(position === 0 && { then: 'exit' }) }))
    expect(outcomes.map(({ code }) => code)).toEqual([0, 0])
    expect(outcomes[1]!.end).toMatchObject({ type: 'failed', error: { fields: { member: 0 } } })
    for (const { pid } of outcomes) expect(ringsOf(pid)).toEqual([])
  })

  it('end cleanly when their worker thread is terminated in the middle of a run', async () => {
    const child = fork(fileURLToPath(new URL('./terminate.child.ts', import.meta.url)), [], { execArgv: EXEC_ARGV })
    let message: { handle: { name: string }; milliseconds: number } | undefined
    child.on('message', (value) => {
      message = value as typeof message
    })
    const [code] = (await once(child, 'exit')) as [number | null]
    expect(code).toBe(0)
    expect(message?.milliseconds).toBeLessThan(5000)
    expect(message?.handle.name).toContain(`ckpt-${child.pid}-`)
    expect(ringsOf(child.pid!)).toEqual([])
  })

  it('go on when threads are terminated at any moment of the addon’s work', async () => {
    const child = fork(fileURLToPath(new URL('./terminate-many.child.ts', import.meta.url)), [], {
      execArgv: EXEC_ARGV,
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    const seen: string[] = []
    let stderr = ''
    child.on('message', ({ what }: { what: string }) => seen.push(what))
    child.stderr!.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
    expect({ code, signal, last: seen.at(-1) }, stderr).toEqual({ code: 0, signal: null, last: 'done' })
    expect(seen).toHaveLength(6)
    expect(ringsOf(child.pid!)).toEqual([])
  })
})
