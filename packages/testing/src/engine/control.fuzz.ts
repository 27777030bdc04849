import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { serveControl } from './control-server.ts'

const directory = mkdtempSync(join(tmpdir(), 'ckpt-fuzz-control-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
const socket = join(directory, 'control.sock')
const schema = z.object({ address: z.string(), token: z.string(), timeoutMs: z.number().positive() })
await serveControl(socket, {
  'GET /health': () => Promise.resolve({ status: 200, body: {} }),
  'POST /update': (body) => Promise.resolve({ status: 200, body: schema.parse(body) }),
})

const request = (head: string, body = '') =>
  Buffer.from(`${head} HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`)

/** Requests to the control socket of an engine worker, from the first byte on. */
export const fuzz = {
  name: 'control',
  seeds: (): Uint8Array[] => [
    request('GET /health'),
    request('POST /update', '{"address":"ipc:///tmp/x","token":"t","timeoutMs":1000}'),
    request('POST /update', '[[[[1,2,{"a":null}]]]]'),
    Buffer.from(
      'POST /update HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n',
    ),
  ],
  async run(input: Uint8Array): Promise<string> {
    const hostile = await exchange(input)
    const status = /^HTTP\/1\.1 (\d+)/.exec(hostile)?.[1] ?? 'closed'
    if (status === '500') throw new Error(`an internal error: ${hostile}`)
    const honest = await exchange(request('GET /health'))
    if (!honest.startsWith('HTTP/1.1 200')) throw new Error(`an honest request was answered ${honest.slice(0, 40)}`)
    return status
  },
}

function exchange(bytes: Uint8Array): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = ''
    const client = connect(socket)
    client.on('data', (data) => (answer += data.toString('latin1')))
    client.on('close', () => resolve(answer))
    client.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') reject(error)
    })
    client.end(bytes)
  })
}
