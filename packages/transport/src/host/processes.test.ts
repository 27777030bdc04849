import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { ChildMessage, ChildOrder } from './member.child.ts'
import { removeStaleRings } from './ring.ts'

const EXEC_ARGV = ['--import', 'tsx', '--conditions=@ckpt/source']

interface Outcome {
  readonly pid: number
  readonly end: ChildMessage | undefined
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Runs every member in a process of its own; the parent only passes the exchange's values around. */
async function cluster(members: number, order: (position: number) => Partial<ChildOrder>): Promise<Outcome[]> {
  const children: ChildProcess[] = []
  const rounds = new Map<string, Map<number, unknown>>()
  const onExchange = (position: number, key: string, value: unknown): void => {
    const round = rounds.get(key) ?? new Map<number, unknown>()
    rounds.set(key, round.set(position, value))
    if (round.size < members) return
    rounds.delete(key)
    const values = Array.from({ length: members }, (_, i) => round.get(i))
    for (const child of children) if (child.connected) child.send({ key, values })
  }
  return Promise.all(
    Array.from({ length: members }, async (_, position): Promise<Outcome> => {
      const whole: ChildOrder = { position, members, runs: 1, timeoutMs: 20_000, then: 'go on', ...order(position) }
      const path = fileURLToPath(new URL('./member.child.ts', import.meta.url))
      const child = fork(path, [JSON.stringify(whole)], { execArgv: EXEC_ARGV })
      children[position] = child
      let end: ChildMessage | undefined
      child.on('message', (message: ChildMessage) => {
        if (message.type === 'exchange') onExchange(position, message.key, message.value)
        else end = message
      })
      const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
      return { pid: child.pid!, end, code, signal }
    }),
  )
}

const ringsOf = (pid: number): string[] => readdirSync('/dev/shm').filter((name) => name.startsWith(`ckpt-${pid}-`))

describe('members in processes of their own', () => {
  it('deliver every byte, and leave nothing in /dev/shm', async () => {
    const outcomes = await cluster(3, () => ({ runs: 2 }))
    for (const { end, code, pid } of outcomes) {
      expect(end).toEqual({ type: 'done', checked: 60 })
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

    // Any other process that makes a device removes it, too: it need not be there any more.
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
})
