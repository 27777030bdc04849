import { execFile, execFileSync } from 'node:child_process'
import { createServer, type AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const FIXTURE = fileURLToPath(new URL('testing/few-descriptors.fixture.ts', import.meta.url))
const LIMIT = 200

const limiting = (() => {
  try {
    execFileSync('prlimit', ['--version'])
    return true
  } catch {
    return false
  }
})()

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Output of two ranks of a process with this many open files to spare; its signal if it was killed. */
async function join(spare: number): Promise<string> {
  const port = await freePort()
  const node = [process.execPath, '--import', 'tsx', '--conditions=@ckpt/source', FIXTURE]
  return new Promise((resolve) => {
    const args = [`--nofile=${LIMIT}`, ...node, String(spare), String(LIMIT), String(port)]
    execFile('prlimit', args, { timeout: 60_000 }, (error, stdout, stderr) =>
      resolve(error === null ? stdout : `ended: ${error.signal ?? error.code} ${stderr}`),
    )
  })
}

// ZeroMQ ends the process if the threads of a context get no descriptor: some of these numbers are enough for its socket, but
// not for them.
describe('ranks of a process that has few open files left', () => {
  it('are refused with the limit and what is open, or join', async ({ skip }) => {
    if (!limiting) skip('there is no prlimit')
    const outcomes = await Promise.all([6, 10, 15, 120].map(join))
    for (const outcome of outcomes.slice(0, -1)) {
      expect(outcome).toMatch(
        /^OUT_OF_MEMORY .* needs 32 open files, but only \d+ are left of 200 \(RLIMIT_NOFILE .*; \d+ are open\).*ulimit -n/,
      )
    }
    expect(outcomes.at(-1)).toBe('joined\n')
  })
})
