import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { ParameterServer } from '@ckpt/core'
import { expect, it, onTestFinished } from 'vitest'
import { serveHttp } from './serve.ts'

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Two ranks with an API each, and the first call of `gatherMetas` on rank 0. */
async function world() {
  const rendezvous = `tcp://127.0.0.1:${await freePort()}`
  const servers = await Promise.all(
    [0, 1].map((rank) => ParameterServer.create({ rank, worldSize: 2, rendezvous, timeoutMs: 20_000 })),
  )
  const apis = await Promise.all(servers.map((server) => serveHttp(server)))
  onTestFinished(async () => {
    for (const server of servers) await server.close()
    for (const api of apis) await api.close()
  })
  const [first] = servers
  const gathering = new Promise<{ readonly signal: AbortSignal }>((resolve) => {
    const { gatherMetas } = first!
    first!.gatherMetas = (name, options) => {
      const gathered = gatherMetas.call(first, name, options)
      resolve({ signal: options!.signal! })
      return gathered
    }
  })
  return { servers, apis, gathering }
}

it('a call that its client abandons takes no part in the next one', async () => {
  const { apis, gathering } = await world()
  const gather = (rank: number, signal?: AbortSignal) =>
    fetch(`${apis[rank]!.address}/v1/checkpoints/a/gather-metas`, { method: 'POST', ...(signal && { signal }) })

  const leaving = new AbortController()
  const abandoned = gather(0, leaving.signal)
  const { signal } = await gathering
  leaving.abort()
  await expect(abandoned).rejects.toThrow(/abort/)
  if (!signal.aborted) await once(signal, 'abort')

  const [first, second] = await Promise.all([gather(0), gather(1)])
  expect(first.status, await first.clone().text()).toBe(200)
  expect(await second.json()).toEqual(await first.json())
})

it('the address of an API on all addresses says so', async () => {
  const server = await ParameterServer.create({ rank: 0, worldSize: 1 })
  onTestFinished(() => server.close())
  for (const [host, shown] of [
    ['0.0.0.0', /^http:\/\/0\.0\.0\.0:\d+$/],
    ['127.0.0.1', /^http:\/\/127\.0\.0\.1:\d+$/],
  ] as const) {
    await using api = await serveHttp(server, { host, token: 'a token of this test', root: '/nowhere' })
    expect(api.address).toMatch(shown)
  }
})

it('a caller that closes its half of the connection still gets its answer', async () => {
  const { servers, apis, gathering } = await world()
  const { port } = new URL(apis[0]!.address)
  const socket = connect(Number(port), '127.0.0.1')
  const closed = once(socket, 'close')
  let answer = ''
  socket.setEncoding('utf8').on('data', (text: string) => (answer += text))
  socket.write('POST /v1/checkpoints/a/gather-metas HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n')
  const { signal } = await gathering
  socket.end()
  while (!answer.includes('100 Continue')) await once(socket, 'data')
  await servers[1]!.gatherMetas('a')
  await closed
  expect(answer).toMatch(/HTTP\/1\.1 200 OK[^]*"ranks":2/)
  expect(signal.aborted).toBe(false)
})
