/**
 * worker-threads.fixture.ts WHAT CHECKPOINT SOCKET DIRECTORY: a parameter server in a worker thread does WHAT; the main thread
 * prints its messages, and terminates it if WHAT includes that.
 */
import { statSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'

import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import { controlEngine } from '@ckpt/core'
import { createParameterServer, serveHttp } from '@ckpt/server'

/** Port used only by this test. */
const PORT = 21_000 + (process.pid % 10_000)
const [what, checkpoint, socket, directory] = (isMainThread ? process.argv.slice(2) : workerData) as [
  string,
  string,
  string,
  string,
]

if (isMainThread) await main()
else await thread()

async function main(): Promise<void> {
  // Threads do not inherit tsx's loader in every Node.
  const code = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(import.meta.url)}) })`
  const worker = new Worker(code, {
    eval: true,
    workerData: [what, checkpoint, socket, directory],
    execArgv: ['--conditions=@ckpt/source'],
  })
  worker.on('error', (error) => {
    console.log(error)
    process.exit(1)
  })
  const ended = new Promise<number>((resolve) => worker.once('exit', resolve))
  if (what === 'work') {
    worker.on('message', (text) => console.log(text))
    console.log(`exit ${await ended}`)
    return
  }
  await new Promise<void>((resolve) => {
    worker.on('message', (text) => {
      console.log(text)
      resolve()
    })
  })
  await new Promise((resolve) => setTimeout(resolve, 300))
  await worker.terminate()
  console.log('terminated')
}

async function thread(): Promise<void> {
  const say = (text: string) => parentPort!.postMessage(text)
  const server = await createParameterServer({
    rank: 0,
    worldSize: 1,
    timeoutMs: 20_000,
    ...(what === 'work' && { metricsPort: PORT }),
  })
  const path = join(directory, 'api.sock')
  const http = await serveHttp(server, { socketPath: path })
  const engine = controlEngine({ socket })
  if (what === 'work') {
    say(`metrics ${await status({ host: '127.0.0.1', port: PORT, path: '/metrics' })}`)
    say(`socket ${(statSync(path).mode & 0o777).toString(8)}`)
    say(`healthz ${await status({ socketPath: path, path: '/v1/healthz' })}`)
    await server.registerCheckpoint('threads', { directory: checkpoint })
    say(`updated ${(await server.update('threads', { engine })).version}`)
    await http.close()
    await server.close()
    return process.exit(0)
  }
  if (what === 'close-then-terminate') {
    await server.registerCheckpoint('threads', { directory: checkpoint })
    const updates = (async () => {
      for (;;) await server.update('threads', { engine })
    })().catch(() => undefined)
    await new Promise((resolve) => setTimeout(resolve, 500))
    await server.close()
    await http.close()
    await updates
    return say('closed')
  }
  say('started')
  if (what === 'idle') setInterval(() => undefined, 1000)
  for (let i = 0; what === 'register'; i++) {
    await server.registerCheckpoint(`a${i}`, { directory: checkpoint })
    await server.unregisterCheckpoint(`a${i}`)
  }
  if (what === 'gather') {
    await server.registerCheckpoint('a', { directory: checkpoint })
    for (;;) await server.gatherMetas('a', { digests: true })
  }
}

function status(where: { host?: string; port?: number; socketPath?: string; path: string }): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    request(where, (response) => {
      response.resume()
      resolve(response.statusCode)
    })
      .once('error', reject)
      .end()
  })
}
