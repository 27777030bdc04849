import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pythonInterpreter, pythonLacks } from '@ckpt/testing'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { shareOf, withLinks } from './links.ts'
import { PeerRanks } from './ranks.ts'

/** In the place of checkpoint-engine's class, which needs a GPU: it sends the engine what it was asked to do. */
const PARAMETER_SERVER = `
import os
import torch

torch.cuda.reset_peak_memory_stats = lambda: None
torch.cuda.max_memory_allocated = lambda: 5 + int(os.environ["RANK"])

class ParameterServer:
    def __init__(self, auto_pg):
        self._auto_pg, self._device_uuid, self._done = auto_pg, "GPU-" + os.environ["RANK"], []
    def register_checkpoint(self, name, files, use_inplace_pin_memory):
        self._done.append(f"register {name} {' '.join(files)} {use_inplace_pin_memory}")
    def unregister_checkpoint(self, name):
        raise KeyError(name)
    def gather_metas(self, name):
        self._done.append(f"gather {name} {self._auto_pg}")
    def init_process_group(self):
        self._done.append("init")
    def update(self, name, request):
        request([("GPU-0", ", ".join(self._done)), ("GPU-1", name)])
`
const lacking = pythonLacks('torch', 'loguru', 'checkpoint_engine')
let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-peer-test-'))
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(directory, { recursive: true, force: true })
})

describe('PeerRanks', () => {
  it('drives ranks by lines; together they make one call of a vLLM server', { timeout: 120_000 }, async ({ skip }) => {
    if (lacking !== undefined) return skip(lacking)
    mkdirSync(join(directory, 'checkpoint_engine'))
    writeFileSync(join(directory, 'checkpoint_engine/__init__.py'), '')
    writeFileSync(join(directory, 'checkpoint_engine/ps.py'), PARAMETER_SERVER)
    vi.stubEnv('PYTHONPATH', directory)
    const asked: unknown[] = []
    let status = 200
    const server = createServer((request, response) => {
      const parts: Buffer[] = []
      request.on('data', (part: Buffer) => parts.push(part))
      request.on('end', () => {
        asked.push([request.url, JSON.parse(Buffer.concat(parts).toString())])
        response.writeHead(status).end('worker 1 failed')
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    try {
      await using ranks = await PeerRanks.start(pythonInterpreter(), [url, url])
      expect(ranks.version).toMatch(/^\d+\.\d+/)
      await ranks.all('register', (rank) => ({ name: 'a', files: ['x', 'y', 'z'].slice(rank), inplace: true }))
      await ranks.all('gather', () => ({ name: 'a' }))
      await ranks.all('keep_communicator')
      await ranks.all('gather', () => ({ name: 'a' }))
      const { milliseconds, peakDeviceBytes } = await ranks.all('update', () => ({ name: 'a' }))
      expect(milliseconds).toBeGreaterThan(0)
      expect(peakDeviceBytes).toBe(6)
      const sockets = { 'GPU-0': 'register a x y z True, gather a True, init, gather a False', 'GPU-1': 'a' }
      expect(asked).toEqual([['/collective_rpc', { method: 'update_weights_from_ipc', args: [sockets], timeout: 300 }]])
      await expect(ranks.all('unregister', () => ({ name: 'b' }))).rejects.toThrow(/unregister: KeyError: 'b'/)
      status = 500
      await expect(ranks.all('update', () => ({ name: 'a' }))).rejects.toThrow(
        /rank 0: update: .*answered 500: worker 1 failed/,
      )
    } finally {
      server.close()
    }
  })

  it('says why a rank did not start', async () => {
    await expect(PeerRanks.start('/bin/false', ['http://127.0.0.1:1'])).rejects.toThrow(/checkpoint-engine rank 0 exited \(1\)/)
  })
})

it('withLinks gives names that may be removed, and leaves the files', async () => {
  const files = ['a', 'b', 'c'].map((name) => join(directory, `files/${name}`))
  mkdirSync(join(directory, 'files'))
  for (const file of files) writeFileSync(file, file)
  await withLinks({ directory: join(directory, 'files'), files }, (links) => {
    expect(shareOf(links, 0, 2)).toHaveLength(2)
    for (const link of links) rmSync(link)
    return Promise.resolve()
  })
  expect(readdirSync(directory)).toEqual(['files'])
  expect(readdirSync(join(directory, 'files'))).toEqual(['a', 'b', 'c'])
})
