import { CkptError } from '@ckpt/contract'
import { decodeRankMessage, decodeWorkerMessage, encodeMessage, ringTensor, tensorFrame } from './messages.ts'

/** Frames of the worker protocol, read by a rank and by a worker of the reference engine. */
export const fuzz = {
  name: 'worker-frames',
  seeds(): Uint8Array[] {
    const tensor = tensorFrame({
      name: 'model.w',
      dtype: 'BF16',
      shape: [2, 3],
      offset: 256,
      bytes: 12,
      digest: 0x0123456789abcdefn,
    })
    const bare = tensorFrame({ name: 'b', dtype: 'F8_E4M3', shape: [], offset: 0, bytes: 1 })
    const order = { seq: 7, epoch: 2 }
    return [
      encodeMessage({ type: 'hello', protocol: 1, token: 'token', pid: 12, engine: 'e', device: 'GPU-0' }),
      encodeMessage({ type: 'ok', ...order, reloadMs: 1.5 }),
      encodeMessage({ type: 'error', ...order, error: { type: 'E', message: 'm', traceback: 't', tensor: 'x' } }),
      encodeMessage({
        type: 'attach',
        ...order,
        token: 't',
        ring: { kind: 'shm', name: 'ckpt-1', offset: 4096, bytes: 1e6 },
        tensors: 2,
        bytes: 13,
      }),
      encodeMessage({
        type: 'attach',
        ...order,
        token: 't',
        ring: { kind: 'cuda', handle: Buffer.alloc(64, 3), offset: 0, bytes: 1e6, deviceUuid: 'GPU-0' },
        tensors: 2,
        bytes: 13,
      }),
      encodeMessage({ type: 'bucket', ...order, bucket: 3, tensors: [tensor, bare] }),
      encodeMessage({ type: 'release', ...order }),
      encodeMessage({ type: 'commit', ...order, version: 'v1' }),
      encodeMessage({ type: 'abort', ...order, reason: 'because' }),
    ]
  },
  run(input: Uint8Array): string {
    return `${attempt(() => decodeWorkerMessage(input, 'peer').type)} | ${attempt(() => {
      const message = decodeRankMessage(input, 'peer')
      if (message.type === 'bucket') for (const frame of message.tensors) ringTensor(frame)
      return message.type
    })}`
  },
}

function attempt(read: () => string): string {
  try {
    return read()
  } catch (error) {
    if (!CkptError.is(error, 'ENGINE_PROTOCOL')) throw error
    if (error.fields.peer !== 'peer') throw new Error('the error names no peer', { cause: error })
    return error.message.replaceAll(/\d+/g, '#').slice(0, 80)
  }
}
