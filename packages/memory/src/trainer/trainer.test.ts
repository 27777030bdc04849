import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError, type DeviceReadRequest } from '@ckpt/contract'
import { createHost } from '@ckpt/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CheckpointStore } from '../checkpoint-store.ts'
import { bytesOf, contents, failure } from '../fixtures.ts'

// Real Python trainers run in the harness's tests; these trainers send what a real one never does.

const host = createHost()
const shared = `ckpt-test-${process.pid}-trainer`
const memories = [{ kind: 'shared', name: shared, bytes: 4096 }]
const good = ['a', 'F32', [2, 3], 0, 0, 24]

let directory: string
let peer: string
let server: Server | undefined
let store: CheckpointStore

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-trainer-'))
  peer = join(directory, 'trainer.sock')
  store = new CheckpointStore(host)
})
afterEach(async () => {
  await store.close()
  await new Promise((resolve) => (server?.listening === true ? server.close(resolve) : resolve(undefined)))
  rmSync(directory, { recursive: true, force: true })
})

function frame(message: unknown): Buffer {
  const body = Buffer.from(JSON.stringify(message))
  const prefix = Buffer.alloc(4)
  prefix.writeUInt32LE(body.length)
  return Buffer.concat([prefix, body])
}

/** A trainer that answers each message of a rank by its type. @returns the types it received. */
async function trainer(answers: Record<string, (socket: Socket) => void>): Promise<string[]> {
  const got: string[] = []
  server = createServer((socket) => {
    let rest = Buffer.alloc(0)
    socket.on('error', () => undefined)
    socket.on('data', (data) => {
      rest = Buffer.concat([rest, data])
      while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32LE(0)) {
        const end = 4 + rest.readUInt32LE(0)
        const { type } = JSON.parse(rest.subarray(4, end).toString()) as { type: string }
        rest = rest.subarray(end)
        got.push(type)
        answers[type]?.(socket)
      }
    })
  })
  await new Promise<void>((resolve) => server!.listen(peer, resolve))
  return got
}

const offers =
  (tensors: unknown, of: unknown = memories) =>
  (socket: Socket): void =>
    void socket.write(frame({ type: 'tensors', memories: of, tensors }))
const says =
  (data: string | Buffer) =>
  (socket: Socket): void =>
    void socket.write(data)
const kept = says(frame({ type: 'kept' }))
function goes(socket: Socket): void {
  socket.destroy()
}

async function expectNothing(): Promise<void> {
  expect(store.names).toEqual([])
  expect(store.poolStats.usedBlocks).toBe(0)
  // The name can be used again.
  await store.register('x', { tensors: {} })
}

describe('registering from a trainer', () => {
  it('takes frames in any pieces, and tells the trainer once all is registered', async () => {
    const memory = await host.createShared(shared, { bytes: 4096 })
    memory.view(0, 4096).set(bytesOf(3, 4096))
    const got = await trainer({
      hello(socket) {
        const message = frame({ type: 'tensors', memories, tensors: [good, ['b', 'U8', [1000], 0, 77, 1000]] })
        for (const piece of [message.subarray(0, 3), message.subarray(3, 50)]) socket.write(piece)
        setTimeout(() => socket.write(message.subarray(50)), 20)
      },
      copied: kept,
    })
    try {
      await store.register('x', { trainer: peer }, { pool: 'shared' })
      expect(contents(store, 'x').get('b')).toBe(bytesOf(3, 4096).toString('base64', 77, 1077))
      await expect.poll(() => got).toEqual(['hello', 'copied', 'registered'])
    } finally {
      memory.unlink()
      memory.close()
    }
  })

  it.for([
    ['an unknown dtype', [good, ['b', 'F13', [1], 0, 0, 4]], memories, { field: 'dtype', tensor: 'b' }],
    ['a wrong size', [good, ['b', 'F32', [2], 0, 0, 4]], memories, { field: 'bytes', tensor: 'b' }],
    ['a tensor outside its memory', [['b', 'F32', [2], 0, 4090, 8]], memories, { field: 'offset', tensor: 'b' }],
    ['a negative offset', [['b', 'F32', [2], 0, -8, 8]], memories, { field: 'offset', tensor: 'b' }],
    ['a shape that is none', [['b', 'F32', [1.5], 0, 0, 6]], memories, { field: 'shape', tensor: 'b' }],
    ['a memory that is not there', [['b', 'F32', [2], 1, 0, 8]], memories, { field: 'memory', tensor: 'b' }],
    ['a name that appears twice', [good, good], memories, { field: 'name', tensor: 'a' }],
    ['a row too short', [['b']], memories, { field: 'tensors' }],
    ['no list of tensors', 7, memories, { field: 'tensors' }],
    ['a path for a name', [], [{ kind: 'shared', name: '../etc/passwd', bytes: 1 }], { field: 'name' }],
    ['a handle too short', [['b', 'U8', [1], 0, 0, 1]], [cuda('AAAA')], { field: 'handle', tensor: 'b' }],
    ['shared memory that is not there', [good], [{ kind: 'shared', name: 'ckpt-test-none', bytes: 99 }], { tensor: 'a' }],
  ] as const)('refuses %s', async ([, tensors, of, fields]) => {
    const memory = await host.createShared(shared, { bytes: 4096 })
    const got = await trainer({ hello: offers(tensors, of), copied: kept })
    try {
      const error = await failure(() => store.register('x', { trainer: peer }, { pool: 'shared' }))
      expect(error.code, error.message).toBe('CHECKPOINT_MALFORMED')
      expect(error.fields).toMatchObject({ peer, ...fields })
      expect(error.message).toContain(peer)
      await expect.poll(() => got).toEqual(['hello', 'failed'])
      await expectNothing()
    } finally {
      memory.unlink()
      memory.close()
    }
  })

  const misbehaviour: [string, string | undefined, (socket: Socket) => void, string][] = [
    ['is not there', undefined, kept, 'CHECKPOINT_UNREADABLE'],
    ['says that it failed', 'hello', says(frame({ type: 'error', message: 'oh' })), 'CHECKPOINT_UNREADABLE'],
    ['goes before it describes', 'hello', goes, 'CHECKPOINT_UNREADABLE'],
    ['goes before it says what it kept', 'copied', goes, 'CHECKPOINT_UNREADABLE'],
    ['sends something else', 'hello', kept, 'CHECKPOINT_MALFORMED'],
    ['sends no JSON', 'hello', says('\u0004\0\0\0oops'), 'CHECKPOINT_MALFORMED'],
    ['sends a huge frame', 'hello', says(Buffer.alloc(4, 0x7f)), 'CHECKPOINT_MALFORMED'],
    ['says nothing', 'hello', () => undefined, 'TIMEOUT'],
  ]
  it.for(misbehaviour)('a trainer that %s leaves nothing', async ([, type, answer, code]) => {
    if (type !== undefined) await trainer({ hello: offers([['e', 'F32', [0], 0, 0, 0]]), copied: kept, [type]: answer })
    const memory = await host.createShared(shared, { bytes: 4096 })
    try {
      const error = await failure(() => store.register('x', { trainer: peer, timeoutMs: 300 }))
      expect([error.code, error.fields.peer], error.message).toEqual([code, peer])
      await expectNothing()
    } finally {
      memory.unlink()
      memory.close()
    }
  })

  it('stops when it is told to', async () => {
    const controller = new AbortController()
    await trainer({ hello: () => controller.abort() })
    const error = await failure(() => store.register('x', { trainer: peer }, { signal: controller.signal }))
    expect(error.code).toBe('ABORTED')
    await expectNothing()
    expect((await failure(() => store.register('y', { trainer: peer }, { share: { index: 0, count: 2 } }))).fields.field).toBe(
      'share',
    )
  })
})

function cuda(handle: string): object {
  return { kind: 'cuda', handle, deviceUuid: 'GPU-1', bytes: 4096 }
}

describe('tensors on GPUs', () => {
  const handle = new Uint8Array(64).fill(9)
  const tensors = {
    a: { dtype: 'U8', shape: [100], data: { device: { handle, offset: 512 }, uuid: 'GPU-1' } },
    b: { dtype: 'U8', shape: [300], data: { device: { handle: handle.slice() }, uuid: 'GPU-1' } },
    c: { dtype: 'F32', shape: [2], data: { devicePointer: 4096n, uuid: 'GPU-2' } },
    none: { dtype: 'F32', shape: [0], data: { devicePointer: 0n, uuid: 'GPU-2' } },
  } as const

  it('are refused by name where the device reads none', async () => {
    const error = await failure(() => store.register('x', { tensors }))
    expect([error.code, error.fields.tensor]).toEqual(['UNSUPPORTED', 'a'])
    await trainer({ hello: offers([['w', 'U8', [8], 0, 0, 8]], [cuda(Buffer.alloc(64).toString('base64'))]) })
    const served = await failure(() => store.register('x', { trainer: peer }))
    expect([served.code, served.fields.tensor, served.fields.peer]).toEqual(['UNSUPPORTED', 'w', peer])
    await expectNothing()
  })

  it('become one request: each allocation once, every tensor at its place; errors name the tensor', async () => {
    const requests: DeviceReadRequest[] = []
    let thrown: CkptError | undefined
    const reader = {
      readDevice(request: DeviceReadRequest) {
        requests.push(request)
        return thrown ? Promise.reject(thrown) : Promise.resolve({ bytes: 0, milliseconds: 0 })
      },
    }
    const onGpu = new CheckpointStore(host, { reader })
    await onGpu.register('x', { tensors })
    const { sources, reads } = requests[0]!
    expect(sources).toEqual([
      { kind: 'ipc', handle, deviceUuid: 'GPU-1' },
      { kind: 'pointer', pointer: 4096n, bytes: 8, deviceUuid: 'GPU-2' },
    ])
    expect(reads).toEqual([
      { source: 0, sourceOffset: 512, destination: 0, destinationOffset: 0, bytes: 100 },
      { source: 0, sourceOffset: 0, destination: 0, destinationOffset: 256, bytes: 300 },
      { source: 1, sourceOffset: 0, destination: 0, destinationOffset: 768, bytes: 8 },
    ])
    for (const [fields, tensor] of [
      [{ read: 1 }, 'b'],
      [{ source: 1 }, 'c'],
    ] as const) {
      thrown = new CkptError('INVALID_ARGUMENT', 'no', { fields })
      const error = await failure(() => onGpu.register('y', { tensors }))
      expect([error.code, error.fields.tensor], error.message).toEqual(['INVALID_ARGUMENT', tensor])
    }
    expect(onGpu.names).toEqual(['x'])
    await onGpu.close()
  })
})
