import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError, type EngineAdapter, type Rendezvous } from '@ckpt/contract'
import { joinRendezvous } from '@ckpt/rendezvous'
import { expect, it, onTestFinished } from 'vitest'
import { ParameterServer } from '../parameter-server.ts'

const TENSORS = { a: { dtype: 'F32', shape: [2], data: Float32Array.of(1, 2) } } as const

/** A rendezvous whose gathers end late on this rank, as on a busy machine. */
function late(rendezvous: Rendezvous): Rendezvous {
  return new Proxy(rendezvous, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      if (name !== 'allGather') return value.bind(target) as unknown
      return async (...given: Parameters<Rendezvous['allGather']>) => {
        const gathered = await target.allGather(...given)
        await sleep(150)
        return gathered
      }
    },
  })
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

it('a rank listens for its worker before any rank can call the engine', async () => {
  const address = `tcp://127.0.0.1:${await freePort()}`
  const heard: boolean[] = []
  const engine: EngineAdapter = {
    name: 'probe',
    ready: () => Promise.resolve(),
    start: ({ rank, endpoints }) => {
      // Rank 0 calls the workers of all ranks.
      if (rank === 0) heard.push(...endpoints.map((endpoint) => existsSync(endpoint.address.replace('ipc://', ''))))
      return Promise.reject(new CkptError('ENGINE_BUSY', 'the probe has seen enough'))
    },
  }
  const [first, rendezvous] = await Promise.all([
    ParameterServer.create({ rank: 0, worldSize: 2, rendezvous: address, timeoutMs: 10_000 }),
    joinRendezvous({ rank: 1, worldSize: 2, address, timeoutMs: 10_000 }),
  ])
  const second = await ParameterServer.create({ rendezvous: late(rendezvous), timeoutMs: 10_000 })
  onTestFinished(async () => {
    await second.close()
    await rendezvous.close()
    await first.close()
  })
  await first.registerCheckpoint('one', { tensors: TENSORS })
  await Promise.all([first.gatherMetas('one'), second.gatherMetas('one')])
  const outcomes = await Promise.allSettled([first, second].map((server) => server.update('one', { engine })))
  expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  expect(heard).toEqual([true, true])
})
