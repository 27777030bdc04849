import { createHash } from 'node:crypto'

import { CkptError, type Epoch, type GatherOptions, type Rendezvous } from '@ckpt/contract'

import { joinRendezvous, type JoinOptions } from '../index.ts'

/** One rank in a separate process, controlled by its parent. It ends when it has nothing open. */
let rendezvous: Rendezvous | undefined
const epochs = new Map<number, Epoch>()

const commands = {
  async join(options: JoinOptions) {
    rendezvous = await joinRendezvous(options)
  },
  allGather: (key: string, value: unknown, options?: GatherOptions) => rendezvous!.allGather(key, value, options),
  barrier: (key: string, options?: GatherOptions) => rendezvous!.barrier(key, options),
  /**
   * Gathers `bytes` bytes derived from `seed`; returns each payload's real digest and the duration, from a barrier on, in
   * milliseconds.
   */
  async blobs(key: string, seed: string, bytes: number, options?: GatherOptions) {
    const payload = Buffer.alloc(bytes, createHash('sha256').update(seed).digest())
    const digest = sha(payload)
    await rendezvous!.barrier(`${key} start`, options)
    const started = performance.now()
    const blobs = await rendezvous!.allGatherBlobs(key, { digest, payload }, options)
    const ms = performance.now() - started
    return { ms, digests: blobs.map((blob) => blob.digest), hashes: blobs.map((blob) => sha(blob.payload)) }
  },
  async beginEpoch(options?: GatherOptions) {
    const epoch = await rendezvous!.beginEpoch(options)
    epochs.set(epoch.id, epoch)
    return epoch.id
  },
  endEpoch: (id: number) => rendezvous!.endEpoch(epochs.get(id)!),
  abortEpoch: (id: number, text: string) => rendezvous!.abortEpoch(epochs.get(id)!, new CkptError('DIGEST_MISMATCH', text)),
  /** Resolves to the reason for which the epoch was aborted. */
  async aborted(id: number) {
    const { signal } = epochs.get(id)!
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
    return (signal.reason as CkptError).toJSON()
  },
  isAborted: (id: number) => epochs.get(id)!.signal.aborted,
  /** Keeps the event loop busy. */
  block(ms: number) {
    const until = performance.now() + ms
    while (performance.now() < until);
  },
  async close() {
    await rendezvous?.close()
    rendezvous = undefined
  },
  handles: () => process.getActiveResourcesInfo(),
}

export type Commands = typeof commands

process.on('message', (message: { id: number; name: keyof Commands; args: never[] }) => {
  const run: (...args: never[]) => unknown = commands[message.name]
  Promise.resolve()
    .then(() => run(...message.args))
    .then(
      (result) => process.send!({ id: message.id, result }),
      (error: unknown) => process.send!({ id: message.id, error: CkptError.from(error, 'NATIVE_FAILURE').toJSON() }),
    )
})

function sha(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 32)
}
