import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { controlRequest } from './control-engine.ts'

describe('requests to a control socket', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-control-'))
  const socket = join(directory, 'engine.sock')
  let server: Server
  beforeEach(async () => {
    // Offers to keep every connection, and ends each as soon as it is used again: like a worker whose idle timeout has just
    // passed.
    server = createServer((connection) => {
      connection.on('error', () => undefined)
      connection.once('data', () => {
        connection.write('HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nkeep-alive: timeout=60\r\ncontent-length: 2\r\n\r\n{}')
        connection.on('data', () => connection.destroy())
      })
    })
    await new Promise<void>((resolve) => server.listen(socket, resolve))
  })
  afterEach(() => new Promise((resolve) => server.close(resolve)))
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  it('are not lost with connections that the worker has closed as idle', async () => {
    for (let i = 0; i < 5; i++) expect(await controlRequest(socket, 'GET', '/health')).toEqual({})
  })

  it('name the socket where nobody listens', async () => {
    await expect(controlRequest(`${socket}.none`, 'GET', '/health')).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' })
  })
})
