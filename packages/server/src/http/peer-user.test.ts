import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { fromOwnUser } from './peer-user.ts'

/** Both ends of a connection to a server that listens at `at`. */
async function connected(at: string, to: string): Promise<{ client: Socket; server: Socket }> {
  const listening = createServer().listen(0, at)
  onTestFinished(() => void listening.close())
  await once(listening, 'listening')
  const client = connect((listening.address() as { port: number }).port, to)
  const [server] = (await once(listening, 'connection')) as [Socket]
  onTestFinished(() => void (client.destroy(), server.destroy()))
  return { client, server }
}

it.each([
  ['127.0.0.1', '127.0.0.1'],
  ['127.0.0.1', '::ffff:127.0.0.1'],
  ['::', '127.0.0.1'],
  ['::1', '::1'],
])('knows its own user’s connection to %s by %s', async (at, to) => {
  const { server } = await connected(at, to)
  expect(await fromOwnUser(server)).toBe(true)
})

it('takes a connection whose process has closed it, which the system lists as root’s, for nobody’s', async () => {
  const { client, server } = await connected('127.0.0.1', '127.0.0.1')
  client.end('a request')
  await once(client, 'finish')
  client.destroy()
  await once(client, 'close')
  expect(await fromOwnUser(server)).toBe(false)
})
