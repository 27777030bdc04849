import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import { expect, it, onTestFinished } from 'vitest'

import { fetchPublished, startCoordinator } from '../index.ts'

const TOKEN = 'the secret of this run'
const PROCESSES = 3
const EACH = 100
const MEMBERS = PROCESSES * EACH
const ROUNDS = 4
/** A call that takes longer counts as hanging; this machine may be slow because of other work. */
const HANG_MS = 30_000
/** Maximum growth of the coordinator's process. */
const MOST_MIB = 400
/** Payloads of 4 MiB that the hostile member publishes at least, to exceed that. */
const PUBLISHED = 110

function start(fixture: string, argument: unknown): ChildProcess {
  const child = fork(fileURLToPath(new URL(`../testing/${fixture}`, import.meta.url)), [JSON.stringify(argument)], {
    execArgv: ['--import', 'tsx', '--conditions=@ckpt/source'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  return child
}

async function answer<T>(child: ChildProcess): Promise<T> {
  const signal = AbortSignal.timeout(2 * HANG_MS)
  return ((await once(child, 'message', { signal })) as [T])[0]
}

it(`${MEMBERS} members join and gather beside one that is hostile`, { timeout: 180_000 }, async () => {
  const worldSize = MEMBERS + 1
  const coordinator = await startCoordinator({ address: 'tcp://127.0.0.1:0', worldSize, token: TOKEN })
  onTestFinished(() => coordinator.close())
  const { address } = coordinator
  const common = { address, token: TOKEN, worldSize }
  const hostile = start('hostile-member.fixture.ts', { ...common, rank: MEMBERS })
  // It becomes a member before the others.
  await answer(hostile)
  const before = process.memoryUsage.rss()
  const children = Array.from({ length: PROCESSES }, (_, i) =>
    start('many.fixture.ts', { ...common, from: i * EACH, to: (i + 1) * EACH }),
  )
  // A rank that asks continuously.
  const state = { over: false, slowest: 0, asked: 0, most: 0 }
  const asking = (async () => {
    while (!state.over) {
      const started = performance.now()
      await fetchPublished('nothing', { address, token: TOKEN, timeoutMs: HANG_MS })
      state.slowest = Math.max(state.slowest, performance.now() - started)
      state.asked++
      state.most = Math.max(state.most, process.memoryUsage.rss() - before)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  })()
  const joined = await Promise.all(children.map((child) => answer<{ joined: number; ms: number }>(child)))
  expect(joined.map((one) => one.joined)).toEqual(children.map(() => EACH))
  const rounds: number[] = []
  let report: Record<string, number> = {}
  while (rounds.length < ROUNDS || report['published']! < PUBLISHED) {
    const started = performance.now()
    for (const child of children) child.send({ key: `round ${rounds.length}`, among: MEMBERS })
    expect(await Promise.all(children.map((child) => answer(child)))).toEqual(children.map(() => ({ right: EACH })))
    rounds.push(Math.round(performance.now() - started))
    hostile.send('report')
    report = await answer(hostile)
  }
  state.over = true
  await asking
  console.log(
    `${MEMBERS} joined in ${Math.max(...joined.map(({ ms }) => ms))} ms, gathers of all in ${rounds.join(', ')} ms, ` +
      `${state.asked} fetches, slowest ${Math.round(state.slowest)} ms, ${Math.round(state.most / 2 ** 20)} MiB more, beside ${JSON.stringify(report)}`,
  )
  for (const kind of ['memberships', 'gathers', 'aborts', 'joins', 'noise']) expect(report[kind]).toBeGreaterThan(0)
  // Sixteen of its payloads are kept, 64 MiB; messages in transit and garbage add to that.
  expect(state.most / 2 ** 20).toBeLessThan(MOST_MIB)
})
