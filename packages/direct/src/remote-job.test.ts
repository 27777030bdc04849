import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError, type DirectJob, type DirectStats, ContiguousCopies } from '@ckpt/contract'
import { createHost } from '@ckpt/transport'
import { expect, it } from 'vitest'
import { LANDINGS, RemoteDirectJob } from './remote-job.ts'

const NOTHING: DirectStats = { h2dMs: 0, forwardMs: 0, h2dBytes: 0, forwardBytes: 0, spans: new Float64Array(0) }

const job = (run: DirectJob['run'] = () => Promise.resolve(NOTHING)): DirectJob => ({ run, close: () => Promise.resolve() })

it('ends with the error of a copy that fails while the next round is read, and stops that reading', async () => {
  const host = createHost()
  const landings = await Promise.all(Array.from({ length: LANDINGS }, () => host.allocate({ bytes: 4096 })))
  const unhandled: unknown[] = []
  const note = (error: unknown) => unhandled.push(error)
  process.on('unhandledRejection', note)
  let stopped = 0
  const rounds = [
    job(async () => {
      await sleep(20)
      throw new CkptError('NATIVE_FAILURE', 'the copy failed')
    }),
    job(),
    job(),
  ].map((one) => ({ reads: ContiguousCopies.from([]), job: one }))
  let reads = 0
  const whole = new RemoteDirectJob({
    local: job(),
    rounds,
    forwards: job(),
    landings,
    reader: {
      // The first arrives immediately, the second never.
      read: async (_reads, _memory, signal) => {
        if (reads++ === 0) return
        const began = performance.now()
        await sleep(5000, undefined, { signal })
          .catch(() => undefined)
          .finally(() => (stopped = performance.now() - began))
        signal.throwIfAborted()
      },
      close: () => Promise.resolve(),
    },
  })
  try {
    await expect(whole.run(new AbortController().signal)).rejects.toMatchObject({ message: 'the copy failed' })
    await sleep(10)
    expect(unhandled).toEqual([])
    expect(stopped).toBeLessThan(2000)
    expect(reads).toBe(2)
  } finally {
    process.off('unhandledRejection', note)
    await whole.close()
  }
})
