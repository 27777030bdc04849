import { mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve, sep } from 'node:path'
import { writeFile } from '@ckpt/safetensors'
import { ParameterServer } from '@ckpt/core'
import { serveHttp } from './serve.ts'

const directory = realpathSync(mkdtempSync(join(tmpdir(), 'ckpt-fuzz-http-')))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
const root = join(directory, 'root')
mkdirSync(root)
const tensors = [{ name: 'w', dtype: 'U8' as const, shape: [16], data: new Uint8Array(16) }]
const inside = join(root, 'a.safetensors')
const outside = join(directory, 'secret.safetensors')
await writeFile(inside, tensors)
await writeFile(outside, tensors)
const server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
/** Location of the files of the last successful registration: paths are resolved below the root when they are opened. */
let opened: readonly string[] = []
const register = server.registerCheckpoint.bind(server)
server.registerCheckpoint = async (name, source, options) => {
  await register(name, source, options)
  if (!('files' in source) || source.root !== root)
    throw new Error('a request registers something else than files beneath the root')
  opened = source.files.map((file) => realpathSync(resolve(root, file)))
}
const socketPath = join(directory, 'api.sock')
await serveHttp(server, { socketPath, root, bodyLimit: 64 * 1024 })

function request(method: string, path: string, body?: unknown): Buffer {
  const text = body === undefined ? '' : JSON.stringify(body)
  const type = body === undefined ? '' : 'content-type: application/json\r\n'
  return Buffer.from(
    `${method} ${path} HTTP/1.1\r\nhost: localhost\r\n${type}content-length: ${text.length}\r\nconnection: close\r\n\r\n${text}`,
  )
}

/** Requests to the HTTP API, from the first byte on. Files outside the root must stay out of reach. */
export const fuzz = {
  name: 'http',
  seeds: (): Uint8Array[] => [
    request('GET', '/v1/healthz'),
    request('POST', '/v1/checkpoints/a/files', { files: [inside] }),
    request('POST', '/v1/checkpoints/b/files', { files: [join(root, '../secret.safetensors'), outside] }),
    request('POST', '/v1/checkpoints/a/gather-metas'),
    request('POST', '/v1/checkpoints/a/update', { ranks: [0], timeout: 1 }),
    request('DELETE', '/v1/checkpoints/a'),
    request('DELETE', '/v1/checkpoints/a?force=true'),
  ],
  async run(input: Uint8Array): Promise<string> {
    opened = []
    const answer = await exchange(input)
    const status = /^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 'closed'
    if (opened.some((file) => !file.startsWith(root + sep))) throw new Error(`a file outside the root: ${opened.join(', ')}`)
    if (/\n\s+at .*\(|node_modules/.test(answer)) throw new Error(`the answer shows a stack: ${answer}`)
    const honest = await exchange(request('GET', '/v1/healthz'))
    if (!honest.startsWith('HTTP/1.1 200')) throw new Error(`an honest request was answered ${honest.slice(0, 40)}`)
    return `${status} ${/"(?:code|type)":"(\w+)"/.exec(answer)?.[1] ?? ''}`
  },
}

function exchange(bytes: Uint8Array): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = ''
    const client = connect(socketPath)
    client.on('data', (data) => (answer += data.toString('latin1')))
    client.on('close', () => resolve(answer))
    client.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') reject(error)
    })
    client.end(bytes)
  })
}
