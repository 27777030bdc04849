import { controlRequest } from '@ckpt/core'
import { z } from 'zod'
import { serveControl } from '@ckpt/testing'

const bodySchema = z.strictObject({
  method: z.literal('update_weights_from_ipc'),
  args: z.tuple([z.record(z.string(), z.string())]),
  timeout: z.number(),
})

/**
 * The `/collective_rpc` of an engine whose workers are processes with control sockets, by device: accepts the call like vLLM,
 * starts every worker that has a handle, and answers when all are done.
 */
export function serveCollectiveRpc(
  socketPath: string,
  workers: ReadonlyMap<string, string>,
): Promise<{ close: () => Promise<void> }> {
  return serveControl(socketPath, {
    'POST /collective_rpc': async (body) => {
      const { args, timeout } = bodySchema.parse(body)
      await Promise.all(
        Object.entries(args[0]).map(([device, address]) => {
          const socket = workers.get(device)
          if (socket === undefined) throw new Error(`no worker on ${device}`)
          return controlRequest(socket, 'POST', '/update', { address, token: '-', timeoutMs: timeout * 1000 })
        }),
      )
      return { status: 200, body: { results: Object.keys(args[0]).map(() => null) } }
    },
  })
}
