/**
 * One rank's HTTP API with a live page and a metrics port, for tests that attack it: `node http-server.child.ts TOKEN ROOT`.
 * Reports its addresses and, on request, its resources. It ends with its parent.
 */
import { readdirSync } from 'node:fs'
import { createParameterServer, live, serveHttp } from '@ckpt/server'
import { freePort } from '@ckpt/testing'

const [token, root] = process.argv.slice(2)
const metricsPort = await freePort()
const server = await createParameterServer({ rank: 0, worldSize: 1, timeoutMs: 5000, metricsPort })
const api = await serveHttp(server, {
  plugins: [live],
  ...(token !== undefined && { token }),
  ...(root !== undefined && { root }),
})

process.on('message', () => {
  ;(globalThis as { gc?: () => void }).gc?.()
  process.send!({ files: readdirSync('/proc/self/fd').length, residentBytes: process.memoryUsage.rss() })
})
process.on('disconnect', () => process.exit(0))
process.send!({ api: api.address, metrics: `http://127.0.0.1:${metricsPort}` })
