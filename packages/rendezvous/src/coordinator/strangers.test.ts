import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

import type { CkptError } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { curveKeyPair, Dealer } from 'zeromq'

import { joinRendezvous, startCoordinator, type CoordinatorHandle } from '../index.ts'
import { coordinatorKeys, z85 } from '../wire/curve.ts'
import { pack, PROTOCOL } from '../wire/messages.ts'

const TOKEN = 'the secret of this run'
const NAME = 'model.layers.0.self_attn.q_proj.weight'
/** A greeting of ZMTP 3.1 whose mechanism is CURVE. */
const GREETING = Buffer.concat([
  Buffer.from('ff00000000000000017f0301', 'hex'),
  Buffer.from('CURVE'.padEnd(20, '\0')),
  Buffer.alloc(32),
])

describe('strangers, who have not got the secret of the run', () => {
  let coordinator: CoordinatorHandle
  let faults: CkptError[]

  beforeEach(async () => {
    faults = []
    coordinator = await startCoordinator({
      address: 'tcp://127.0.0.1:0',
      worldSize: 2,
      token: TOKEN,
      heartbeatMs: 50,
      heartbeatTimeoutMs: 1000,
      onFault: (error) => faults.push(error),
    })
  })
  afterEach(() => coordinator.close())

  const join = (rank: number, address = coordinator.address) =>
    joinRendezvous({ rank, worldSize: 2, address, standalone: true, token: TOKEN, timeoutMs: 5000 })

  it('read nothing of what passes, and can do nothing with a copy of it', async () => {
    const wire = await Recorder.start(Number(new URL(coordinator.address).port))
    const ranks = await Promise.all([join(0, wire.address), join(1, wire.address)])
    const payload = Buffer.from(`${NAME} `.repeat(1000))
    await Promise.all(ranks.map((rank) => rank.allGather('key', { name: NAME, rank: rank.rank })))
    await Promise.all(ranks.map((rank) => rank.allGatherBlobs('metas', { digest: `digest-${rank.rank}`, payload })))
    const all = Buffer.concat([...wire.sent, ...wire.received].flat())
    expect(all.length).toBeGreaterThan(payload.length * 2)
    const { publicKey, secretKey } = await coordinatorKeys(TOKEN)
    for (const text of [TOKEN, NAME, 'gather', 'digest-0', publicKey, secretKey]) expect(all.includes(text)).toBe(false)
    for (const key of [publicKey, secretKey]) expect(all.includes(fromZ85(key))).toBe(false)

    // The same bytes again, as recorded, on separate connections.
    for (const parts of wire.sent) {
      const replay = await open(coordinator.address)
      for (const part of parts) replay.write(part)
      // Only the server's part of a greeting and a handshake is visible: it has new keys every time.
      const answer = await heard(replay)
      expect(answer.length).toBeLessThan(64 + 200)
    }
    expect(await Promise.all(ranks.map((rank) => rank.allGather('key', rank.rank)))).toEqual(Array(2).fill([0, 1]))
    expect(faults).toEqual([])
    await Promise.all(ranks.map((rank) => rank.close()))
    await wire.close()
  })

  it('cannot join or say anything with another key, with none, or knowing only how members speak', async () => {
    const ranks = await Promise.all([join(0), join(1)])
    const epochs = await Promise.all(ranks.map((rank) => rank.beginEpoch()))
    const messages = [
      pack({ type: 'abort', epoch: epochs[0]!.id, error: { code: 'ABORTED', message: 'injected', fields: {} } }),
      pack({ type: 'leave', ended: [] }),
      pack({ type: 'join', protocol: PROTOCOL, rank: 1, worldSize: 2, incarnation: 'x', token: TOKEN, host: 'h', pid: 1 }),
    ]
    const own = curveKeyPair()
    const other = curveKeyPair()
    const sockets = [
      new Dealer({ linger: 0 }),
      new Dealer({ linger: 0, plainUsername: 'u', plainPassword: TOKEN }),
      ...[other.publicKey, (await coordinatorKeys(`${TOKEN} `)).publicKey].map(
        (curveServerKey) =>
          new Dealer({ linger: 0, curveServerKey, curvePublicKey: own.publicKey, curveSecretKey: own.secretKey }),
      ),
    ]
    const answered = sockets.map(async (socket) => {
      socket.connect(coordinator.address)
      for (const message of messages) await socket.send(message)
      socket.receiveTimeout = 700
      return socket.receive().then(
        () => 'answered',
        () => 'nothing',
      )
    })
    expect(await Promise.all(answered)).toEqual(sockets.map(() => 'nothing'))
    expect(epochs.map(({ signal }) => signal.aborted)).toEqual([false, false])
    expect(await Promise.all(ranks.map((rank) => rank.allGather('k', rank.rank)))).toEqual(Array(2).fill([0, 1]))
    expect(faults).toEqual([])
    for (const socket of sockets) socket.close()
    await Promise.all(ranks.map((rank) => rank.close()))
  })

  it('get nothing by relaying the handshake of a rank to the coordinator of a different run, also where both have one secret', async () => {
    const options = { address: 'tcp://127.0.0.1:0', worldSize: 2, heartbeatMs: 50 }
    const others = await Promise.all([
      startCoordinator({ ...options, token: TOKEN, run: 'region-2' }),
      startCoordinator({ ...options, token: `${TOKEN}!` }),
    ])
    for (const other of others) {
      const wire = await Recorder.start(Number(new URL(other.address).port))
      // The rank expects its own coordinator, and has its correct key.
      const error = await join(1, wire.address).catch((reason: unknown) => reason)
      expect(error).toMatchObject({ code: 'RENDEZVOUS_REJECTED', fields: { field: 'token' } })
      await wire.close()
      await other.close()
    }
    // A rank is served through a relay to its own coordinator: the relay only forwards, and can read nothing.
    const wire = await Recorder.start(Number(new URL(coordinator.address).port))
    const ranks = await Promise.all([join(0), join(1, wire.address)])
    expect(await Promise.all(ranks.map((rank) => rank.allGather('key', rank.rank)))).toEqual(Array(2).fill([0, 1]))
    await Promise.all(ranks.map((rank) => rank.close()))
    await wire.close()
  })

  it('are disconnected when they are silent, speak otherwise, or announce a huge frame', async () => {
    const huge = Buffer.concat([GREETING, Buffer.from('06', 'hex'), Buffer.from('0000000100000000', 'hex'), Buffer.alloc(1024)])
    const before = process.memoryUsage().rss
    for (const [bytes, atOnce] of [
      [Buffer.alloc(0), false],
      [Buffer.alloc(100_000, 0xff), true],
      [Buffer.from('GET / HTTP/1.1\r\nhost: a\r\n\r\n'), false],
      [GREETING, false],
      [huge, true],
    ] as const) {
      // A silent one gets its full time; refused ones are closed immediately before that.
      const silent = await open(coordinator.address)
      const ended: string[] = []
      const waited = heard(silent, 20_000).then(() => ended.push('silent'))
      const started = performance.now()
      const socket = await open(coordinator.address)
      socket.write(bytes)
      await heard(socket, 20_000).then(() => ended.push('stranger'))
      expect(performance.now() - started).toBeLessThan(15_000)
      if (atOnce) expect(ended).toEqual(['stranger'])
      silent.destroy()
      await waited
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20)
    expect(faults).toEqual([])
  })
})

it('encodes Z85 as its specification does', () => {
  expect(z85(Buffer.from('864fd26fb559f75b', 'hex'))).toBe('HelloWorld')
})

it('derives the keys of ZeroMQ from the secret, the same ones each time', async () => {
  const keys = await coordinatorKeys('a')
  expect(curveKeyPair().publicKey).toHaveLength(keys.publicKey.length)
  expect(keys).toEqual(await coordinatorKeys('a'))
  expect(keys.publicKey).not.toBe((await coordinatorKeys('b')).publicKey)
  // Each run name gives different keys, and none is confused with the end of a secret.
  const named = await Promise.all([
    coordinatorKeys('a', 'x'),
    coordinatorKeys('a', 'y'),
    coordinatorKeys('ax'),
    coordinatorKeys('a|x'),
  ])
  expect(new Set([keys, ...named].map(({ publicKey }) => publicKey)).size).toBe(5)
  expect(await coordinatorKeys('a', '')).toEqual(keys)
})

/** A recorded connection between ranks and coordinator. */
class Recorder {
  readonly sent: Buffer[][] = []
  readonly received: Buffer[][] = []
  readonly #server: Server

  private constructor(port: number) {
    this.#server = createServer((incoming) => {
      const outgoing = connect(port, '127.0.0.1')
      const [sent, received]: [Buffer[], Buffer[]] = [[], []]
      this.sent.push(sent)
      this.received.push(received)
      incoming.on('data', (part: Buffer) => (sent.push(part), outgoing.write(part))).on('end', () => outgoing.end())
      outgoing.on('data', (part: Buffer) => (received.push(part), incoming.write(part))).on('end', () => incoming.end())
      for (const socket of [incoming, outgoing]) socket.on('error', () => undefined)
    })
  }

  static async start(port: number): Promise<Recorder> {
    const recorder = new Recorder(port)
    recorder.#server.listen(0, '127.0.0.1')
    await once(recorder.#server, 'listening')
    return recorder
  }

  get address(): string {
    return `tcp://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async close(): Promise<void> {
    this.#server.close()
    await once(this.#server, 'close')
  }
}

async function open(address: string): Promise<Socket> {
  const socket = connect(Number(new URL(address).port), '127.0.0.1')
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  return socket
}

/** Bytes received on a connection until the other side closed it, or until `ms` milliseconds passed. */
async function heard(socket: Socket, ms = 4000): Promise<Buffer> {
  const parts: Buffer[] = []
  socket.on('data', (part: Buffer) => parts.push(part))
  const timer = setTimeout(() => socket.destroy(), ms)
  await new Promise((resolve) => socket.once('close', resolve))
  clearTimeout(timer)
  return Buffer.concat(parts)
}

function fromZ85(text: string): Buffer {
  const alphabet = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#'
  const bytes = Buffer.alloc((text.length / 5) * 4)
  for (let i = 0; i < text.length / 5; i++) {
    const five = Array.from(text.slice(i * 5, i * 5 + 5))
    bytes.writeUInt32BE(
      five.reduce((sum, letter) => sum * 85 + alphabet.indexOf(letter), 0),
      i * 4,
    )
  }
  return bytes
}
