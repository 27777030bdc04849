import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import type { NamespaceHost } from './host.ts'
import { Hosts } from './hosts.ts'
import { clockProblem, hostsProblem } from './namespaces.ts'

const problem = hostsProblem()
/** Serves 4 MiB to everyone who connects; prints when it listens. */
const SERVER = `require('net').createServer((s) => { s.on('error', () => {}); s.end(Buffer.alloc(2 ** 22)) }).listen(4000, () => console.log('listening'))`
/** Reads all that a server sends; prints the number of bytes, or the error after a second of silence. */
const reader = (address: string) =>
  `let n = 0; const s = require('net').connect(4000, '${address}'); s.setTimeout(1000, () => s.destroy(new Error('silent')));
  s.on('data', (d) => (n += d.length)).on('error', (e) => console.log(e.message)).on('end', () => console.log(n))`

async function output(host: NamespaceHost, program: string, args: readonly string[]): Promise<string> {
  const child = host.spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout!.on('data', (data: Buffer) => (text += String(data)))
  await once(child, 'close')
  return text.trim()
}

describe('hosts out of namespaces', { timeout: 60_000 }, () => {
  let made: Hosts | undefined
  beforeAll(async () => {
    if (problem !== undefined) return
    made = await Hosts.create({
      count: 2,
      each: (index) => (index === 1 && clockProblem() === undefined ? { clockSeconds: 300 } : {}),
    })
    await serve(made.hosts[0]!)
  })
  afterAll(() => made?.[Symbol.asyncDispose]())
  const both = ({ skip }: Pick<TestContext, 'skip'>) => {
    if (problem !== undefined) skip(problem)
    return made!.hosts as readonly [NamespaceHost, NamespaceHost]
  }
  const read = ([first, second]: readonly [NamespaceHost, NamespaceHost]) =>
    output(second, process.execPath, ['-e', reader(first.address)])

  it('have names, process ids, temporary files and shared memory of their own', async (context) => {
    const hosts = both(context)
    const look =
      'hostname; echo $$ > /dev/shm/seen; echo $$ > $TMPDIR/seen; ls /dev/shm | grep -c seen; ls /proc | grep -c "^[0-9]"'
    for (const host of hosts) {
      const [name, files, processes] = (await output(host, 'sh', ['-c', look])).split('\n')
      expect(name).toBe(host.name)
      expect(files).toBe('1')
      expect(Number(processes)).toBeLessThan(10)
      expect(existsSync(host.path('/dev/shm/seen'))).toBe(true)
    }
    expect(existsSync('/dev/shm/seen')).toBe(false)
  })

  it('reach each other, until their link is cut or loses packets of one direction', async (context) => {
    const hosts = both(context)
    const all = String(2 ** 22)
    expect(await read(hosts)).toBe(all)
    for (const harm of [() => hosts[1].link('down'), () => hosts[1].lose('in'), () => hosts[1].lose('out')]) {
      harm()
      expect(await read(hosts)).toMatch(/silent|EHOSTUNREACH|ENETUNREACH/)
      hosts[1].restore()
      expect(await read(hosts)).toBe(all)
    }
  })

  it('are no faster than a slow link', async (context) => {
    const hosts = both(context)
    hosts[1].slow(4 * 2 ** 20)
    const from = performance.now()
    expect(await read(hosts)).toBe(String(2 ** 22))
    hosts[1].restore()
    expect(performance.now() - from).toBeGreaterThan(700)
  })

  it('can have a wall clock that is 5 minutes ahead, while time passes as elsewhere', async (context) => {
    const hosts = both(context)
    const missing = clockProblem()
    if (missing !== undefined) context.skip(missing)
    const [here, ahead] = await Promise.all(hosts.map((host) => output(host, process.execPath, ['-p', 'Date.now()'])))
    expect(Math.abs(Number(ahead) - Number(here) - 300_000)).toBeLessThan(60_000)
  })

  it('end with all of their processes, and start again with nothing', async (context) => {
    const hosts = both(context)
    await output(hosts[1], 'touch', ['/dev/shm/seen'])
    const server = await serve(hosts[1])
    const ended = once(server, 'exit')
    await hosts[1].kill()
    await ended
    await hosts[1].restart()
    expect(existsSync(hosts[1].path('/dev/shm/seen'))).toBe(false)
    expect(await read(hosts)).toBe(String(2 ** 22))
  })
})

async function serve(host: NamespaceHost) {
  const server = host.spawn(process.execPath, ['-e', SERVER], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(server.stdout!, 'data')
  return server
}
