/** One rank of `ckpt serve` for tests: its rings stand in for CUDA memory, so that stock workers run without a GPU. Argument: its socket. */
import { ParameterServer } from '@ckpt/core'
import { serveHttp } from '@ckpt/server'
import { standInCudaDevice } from '@ckpt/testing'

const socketPath = process.argv[2]!
const device = await standInCudaDevice(Number(process.env['RANK']))
const server = await ParameterServer.create({ device, timeoutMs: 20_000, heartbeatTimeoutMs: 1500 })
const http = await serveHttp(server, { socketPath })
process.on('SIGTERM', () => {
  void (async () => {
    await server.close()
    await http.close()
    await device.close()
    process.exit(0)
  })()
})
process.send!({ rank: server.rank, device: device.uuid })
