import { CkptError, type SerializedError } from '@ckpt/contract'
import { settingsOf } from '../options.ts'
import { pack, PROTOCOL, readCoordinatorMessage, unpack } from '../wire/messages.ts'
import { Coordinator } from './coordinator.ts'

const join = {
  type: 'join',
  protocol: PROTOCOL,
  rank: 0,
  worldSize: 2,
  incarnation: 'i',
  token: 'secret',
  host: 'h',
  pid: 1,
}
const gather = { type: 'gather', id: 1, kind: 'value', key: 'k', ranks: null, epoch: null, timeoutMs: 1e6, digest: null }
const error: SerializedError = {
  code: 'ABORTED',
  message: 'm',
  fields: { rank: 1 },
  cause: { code: 'TIMEOUT', message: 'c', fields: {} },
}

/** Puts lengths before frames, so that one input holds several messages of several frames: [peer, frames, (length, bytes)…]… */
function script(...messages: [peer: number, ...frames: Uint8Array[]][]): Uint8Array {
  return Buffer.concat(
    messages.flatMap(([peer, ...frames]) => [
      Buffer.of(peer, frames.length),
      ...frames.flatMap((frame) => {
        const length = Buffer.alloc(2)
        length.writeUInt16LE(frame.length)
        return [length, Buffer.from(frame)]
      }),
    ]),
  )
}

function parse(input: Uint8Array): { peer: number; frames: Uint8Array[] }[] {
  const bytes = Buffer.from(input)
  const messages: { peer: number; frames: Uint8Array[] }[] = []
  for (let at = 0; at + 2 <= bytes.length && messages.length < 64;) {
    const peer = bytes[at]! % 3
    const count = bytes[at + 1]! % 4
    at += 2
    const frames: Uint8Array[] = []
    for (let i = 0; i < count && at + 2 <= bytes.length; i++) {
      const length = bytes.readUInt16LE(at)
      frames.push(bytes.subarray(at + 2, at + 2 + length))
      at += 2 + length
    }
    messages.push({ peer, frames })
  }
  return messages
}

/**
 * Messages that a coordinator gets from two ranks and a stranger, in any order, and messages that a rank reads. The coordinator
 * itself never throws.
 */
export const fuzz = {
  name: 'rendezvous-frames',
  seeds(): Uint8Array[] {
    const both: [number, ...Uint8Array[]][] = [
      [0, pack(join)],
      [1, pack({ ...join, rank: 1, incarnation: 'j' })],
    ]
    const value = pack([1, 'x'])
    const epoch = { ...gather, kind: 'epoch', key: 'epoch' }
    const blob = { ...gather, kind: 'blob', digest: 'd' }
    return [
      script(...both, [0, pack({ type: 'beat', ended: [] })], [1, pack({ type: 'leave', ended: [1] })]),
      script(...both, [0, pack(gather), value], [1, pack(gather), value]),
      script(
        ...both,
        [0, pack(epoch)],
        [1, pack(epoch)],
        [0, pack({ type: 'abort', epoch: 1, error })],
        [1, pack({ ...gather, id: 2, epoch: 1 }), value],
      ),
      script(
        ...both,
        [0, pack(blob)],
        [0, pack({ type: 'payload', id: 1 }), value],
        [1, pack({ ...blob, digest: 'e' })],
        [1, pack({ type: 'payload', id: 1 }), value],
        [0, pack({ type: 'want', id: 1, digests: ['e'] })],
      ),
      script(...both, [0, pack({ ...gather, kind: 'barrier', ranks: [0] })], [1, pack({ type: 'cancel', id: 1 })]),
      script([2, pack({ ...join, token: 'guess' })], [2, pack({ type: 'welcome', heartbeatMs: 1, heartbeatTimeoutMs: 2 })]),
      script(
        [2, pack({ type: 'gathered', id: 1, epoch: 1, digests: ['d'] })],
        [2, pack({ type: 'failed', id: 1, error })],
        [2, pack({ type: 'dismissed', error })],
      ),
    ]
  },
  run(input: Uint8Array): string {
    const answers: string[] = []
    const faults: CkptError[] = []
    const settings = settingsOf({ worldSize: 2, token: 'secret', onFault: (fault) => faults.push(fault) })
    const coordinator = new Coordinator(settings, (peer, [head]) => {
      const answer = unpack(head!) as { type: string }
      if (peer === 'p2' && answer.type === 'payloads') throw new Error('a stranger was given a payload')
      answers.push(`${peer}:${answer.type}`)
    })
    try {
      for (const { peer, frames } of parse(input)) {
        coordinator.receive(`p${peer}`, frames)
        try {
          readCoordinatorMessage(frames, 'peer')
        } catch (thrown) {
          if (!CkptError.is(thrown, 'RENDEZVOUS_PROTOCOL')) throw thrown
        }
      }
      coordinator.tick(0)
    } finally {
      coordinator.close(new CkptError('ABORTED', 'over'))
    }
    for (const fault of faults) if (fault.code !== 'RENDEZVOUS_PROTOCOL') throw fault
    return [...answers.slice(0, 24), ...faults.map(({ message }) => message.replaceAll(/\d+/g, '#').slice(0, 60))].join(' ')
  },
}
