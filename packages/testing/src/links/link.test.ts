import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { FaultyLink } from './link.ts'

it.each(['delay', 'silence'] as const)('passes on what came under %s before what comes after it', async (harm) => {
  const server = createServer().listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  const link = await FaultyLink.open((server.address() as AddressInfo).port)
  onTestFinished(() => link.close())
  const client = connect(link.port, '127.0.0.1')
  onTestFinished(() => void client.destroy())
  const [end] = (await once(server, 'connection')) as [Socket]
  let received = ''
  end.setEncoding('latin1').on('data', (text: string) => (received += text))
  const send = async (text: string) => {
    client.write(text)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  await send('a')
  if (harm === 'delay') link.delay(300)
  else link.silence()
  await send('b')
  await send('c')
  expect(received).toBe('a')
  link.restore()
  await send('d')
  await expect.poll(() => received).toBe('abcd')
  await new Promise((resolve) => setTimeout(resolve, 350))
  expect(received).toBe('abcd')
})
