import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { ContiguousCopies, type EndpointDescriptor, type OneSidedRequest, type RegionDescriptor } from '@ckpt/contract'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Channel } from '../bootstrap/channel.ts'
import { allocate, closeAfterEach, closing, connect, failure, oneSidedTests, secret } from '../testing/one-sided.fixture.ts'
import { createUcxEndpoint, endsProcesses, probeUcx, type UcxOneSided } from './endpoint.ts'
import type { Task } from './ucx.child.ts'

// UCX's own TCP: the only one of its transports for RMA that every machine has.
const transports = 'tcp'
const { problem, version } = await probeUcx()
const missing = version !== undefined && endsProcesses(version) ? `UCX ${version} can end the process` : problem
if (missing !== undefined) console.log(`skipped: ${missing}`)
const test = it.skipIf(missing !== undefined)

closeAfterEach()

async function endpoint(): Promise<UcxOneSided> {
  return closing(await createUcxEndpoint({ listen: '127.0.0.1:0', secret, transports, pieceBytes: 65_536 }))
}

const whole = (region: RegionDescriptor) => new ContiguousCopies(Float64Array.of(0, 0, 0, 0, region.bytes))

oneSidedTests('UCX endpoints', { missing, create: endpoint, peerField: ({ descriptor }) => descriptor.id })

describe('UCX endpoints', () => {
  test('say what they are, and refuse options that make no sense', async () => {
    const { descriptor, networkTransports } = await endpoint()
    expect(networkTransports).toContain('tcp/lo')
    expect(descriptor).toMatchObject({ kind: 'ucx', details: { version: expect.stringMatching(/^1\.\d+\.\d+/) } })
    await failure(createUcxEndpoint({ listen: '127.0.0.1:0', secret: 'short' }), 'INVALID_ARGUMENT')
    await failure(createUcxEndpoint({ listen: 'nowhere', secret, transports }), 'INVALID_ARGUMENT')
    await failure(createUcxEndpoint({ listen: '127.0.0.1:0', secret, transports: 'no_such_thing' }), 'NATIVE_FAILURE')
  })

  test('write into writable regions, and into no other', async () => {
    const [owner, writer] = [await endpoint(), await endpoint()]
    const [source, target] = [await allocate(300_000, 1n), await allocate(300_000)]
    const [open, readOnly] = [await owner.register(target, { writable: true }), await owner.register(target)]
    const peer = await writer.connect(owner.descriptor, connect)
    const write = (region: RegionDescriptor) =>
      peer.write({ regions: [region], memories: [source], transfers: whole(region), timeoutMs: 20_000 })
    expect((await failure(write(readOnly.descriptor), 'REGION_REFUSED')).fields['region']).toBe(0)
    expect(target.view(0, 100).every((byte) => byte === 0)).toBe(true)
    expect((await write(open.descriptor)).bytes).toBe(300_000)
    expect(target.view(0, target.bytes).equals(source.view(0, source.bytes))).toBe(true)
  })

  test('close a region only when its readers have stopped', async () => {
    const [owner, reader] = [await endpoint(), await endpoint()]
    const [source, target] = [await allocate(16 * 2 ** 20, 2n), await allocate(16 * 2 ** 20)]
    const [region, other] = [await owner.register(source), await owner.register(source)]
    const peer = await reader.connect(owner.descriptor, connect)
    const request = (one: RegionDescriptor): OneSidedRequest => ({
      regions: [one],
      memories: [target],
      transfers: whole(one),
      timeoutMs: 20_000,
    })
    await peer.read(request(region.descriptor))
    let reading = true
    const refused = (async () => {
      for (;;) await peer.read(request(region.descriptor))
    })().finally(() => (reading = false))
    refused.catch(() => undefined)
    await region.close()
    expect((await failure(refused, 'REGION_REFUSED')).fields).toMatchObject({ field: 'closed', region: 0 })
    expect(reading).toBe(false)
    // Others are not affected.
    await peer.read(request(other.descriptor))
    expect(target.view(0, target.bytes).equals(source.view(0, source.bytes))).toBe(true)
  })

  test('tell neither the worker nor a key to who has no secret', async () => {
    const owner = await endpoint()
    const { key } = (await owner.register(await allocate(4096, 3n))).descriptor
    const { connect: dial } = await import('node:net')
    const port = Number(owner.descriptor.addresses[0]!.split(':')[1])
    const socket = dial(port, '127.0.0.1')
    const channel = new Channel(socket, 'client')
    const nonce = 'f'.repeat(32)
    channel.send({ magic: 'ckpt-ucx', protocol: 1, id: owner.descriptor.id, nonce })
    const [greeting] = (await once(socket, 'data')) as [Buffer]
    const [hello] = [...channel.receive(greeting)] as [{ nonce: string }]
    channel.secure(`${secret}?`, `ckpt ucx 1|${owner.descriptor.id}`, nonce, hello.nonce)
    const heard: Buffer[] = []
    socket.on('data', (chunk: Buffer) => heard.push(chunk))
    channel.send({ type: 'open', seq: 0 })
    channel.send({ type: 'resolve', seq: 1, keys: [key] })
    await once(socket, 'close')
    expect(heard).toEqual([])
    expect(owner.connections).toBe(0)
  })

  test('notice a killed owner, and an owner that stopped, in time', { timeout: 60_000 }, async () => {
    const reader = await endpoint()
    const target = await allocate(64 * 2 ** 20)
    for (const how of ['SIGKILL', 'SIGSTOP'] as const) {
      const { child, descriptor, region } = await ownerProcess()
      const peer = await reader.connect(descriptor, connect)
      const request = { regions: [region], memories: [target], transfers: whole(region), timeoutMs: 2000 }
      await peer.read(request)
      const lost = failure(
        (async () => {
          for (;;) await peer.read(request)
        })(),
        'PEER_LOST',
      )
      child.kill(how)
      expect((await lost).fields.peer).toBe(descriptor.id)
      expect(peer.alive).toBe(false)
      child.kill('SIGKILL')
    }
    // What is left can be used.
    const again = await ownerProcess()
    const peer = await reader.connect(again.descriptor, connect)
    const transfers = whole(again.region)
    await peer.read({ regions: [again.region], memories: [target], transfers, timeoutMs: 20_000 })
    expect(target.view(0, 8).toString('latin1')).toBe('the end.')
  })

  test('serve on when a reader was killed, and give its regions back', { timeout: 60_000 }, async () => {
    const owner = await endpoint()
    const source = await allocate(64 * 2 ** 20, 9n)
    const region = await owner.register(source)
    const child = start({ read: { descriptor: owner.descriptor, region: region.descriptor } })
    await once(child, 'message')
    child.kill('SIGKILL')
    await region.close()
    source.close()
    await expect.poll(() => owner.connections).toBe(0)
  })
})

function start(task: Task): ChildProcess {
  const child = fork(fileURLToPath(new URL('./ucx.child.ts', import.meta.url)), [JSON.stringify(task)], {
    execArgv: ['--import', 'tsx', '--conditions=@ckpt/source'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  return child
}

async function ownerProcess(): Promise<{ child: ChildProcess; descriptor: EndpointDescriptor; region: RegionDescriptor }> {
  const child = start({ own: true })
  const [message] = (await once(child, 'message')) as [{ descriptor: EndpointDescriptor; region: RegionDescriptor }]
  return { child, ...message }
}
