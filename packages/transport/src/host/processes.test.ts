import { execFile, spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, describe, expect, it } from 'vitest'
import { createHost } from './host.ts'

const run = promisify(execFile)
const addon = pathToFileURL(createRequire(import.meta.url).resolve('@ckpt/native-host')).href
const prefix = `ckpt-test-${process.pid}-`

afterAll(() => {
  expect(readdirSync('/dev/shm').filter((name) => name.startsWith(prefix))).toEqual([])
})

/** Runs a module in a new Node process, with the addon as `host`; what it printed. Fails when it does not end with status 0. */
async function inProcess(source: string, ...wrapper: string[]): Promise<string> {
  const text = `import { loadNativeHost } from ${JSON.stringify(addon)}\nconst host = loadNativeHost()\n${source}`
  const command = [...wrapper, process.execPath, '--input-type=module', '-e', text]
  const { stdout } = await run(command[0]!, command.slice(1), { timeout: 30_000 })
  return stdout
}

describe('shared memory', () => {
  it('is seen by another process, and by its name only until it is unlinked', async () => {
    const host = createHost()
    const name = `${prefix}shared`
    const memory = await host.createShared(name, { bytes: 5 << 20, lock: false })
    try {
      expect(memory).toMatchObject({ kind: 'shared', name, bytes: 5 << 20 })
      await expect(host.createShared(name, { bytes: 10 })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        fields: { errno: 17 },
      })
      memory.view(0, 5).write('hello')
      const answer = await inProcess(`
        const memory = await host.openShared(${JSON.stringify(name)})
        const bytes = new Uint8Array(memory.window(0, memory.bytes)[0])
        console.log(memory.bytes, Buffer.from(bytes.subarray(0, 5)).toString())
        bytes.set(Buffer.from('world'), memory.bytes - 5)
      `)
      expect(answer).toBe(`${5 << 20} hello\n`)
      expect(memory.view(memory.bytes - 5, 5).toString()).toBe('world')
      expect(spawnSync('stat', ['-c', '%a', `/dev/shm/${name}`], { encoding: 'utf8' }).stdout).toBe('600\n')

      const file = await host.mapFile(`/dev/shm/${name}`, { lock: false })
      expect(file.view(0, 5).toString()).toBe('hello')
      file.unlink()
      expect(existsSync(`/dev/shm/${name}`)).toBe(false)
      file.close()
    } finally {
      memory.unlink()
      expect(memory.view(0, 5).toString()).toBe('hello')
      memory.close()
    }
    for (const bad of ['', '.', '..', 'a/b', 'a\0b', 'x'.repeat(300)]) {
      await expect(host.createShared(bad, { bytes: 1 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
  })

  // A small /dev/shm of its own needs a mount namespace.
  const namespaces = spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', '/dev/shm']).status === 0
  it.skipIf(!namespaces)('is an error, and no signal, when /dev/shm is full (needs mount namespaces)', async () => {
    const source = `
      import { readdirSync } from 'node:fs'
      const kept = await host.createShared('kept', { bytes: 6 << 20, lock: false })
      for (const prefault of [true, false]) {
        await host.createShared('more', { bytes: 4 << 20, lock: false, prefault }).then(
          () => console.log('no error'),
          (error) => console.log(error.code, error.errno, error.file),
        )
      }
      // Sizes that fit one by one and not together: what one check saw, another has taken.
      const all = await Promise.allSettled([1, 2, 3, 4].map((i) => host.createShared('many' + i, { bytes: 1 << 20, lock: false })))
      console.log(all.filter((one) => one.status === 'fulfilled').length, all.filter((one) => one.reason?.code === 'OUT_OF_MEMORY').length)
      console.log(readdirSync('/dev/shm').length)
    `
    const shell = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$0" "$@"'
    const lines = (await inProcess(source, 'unshare', '-m', 'sh', '-c', shell)).trim().split('\n')
    expect(lines).toEqual(['OUT_OF_MEMORY 28 /dev/shm/more', 'OUT_OF_MEMORY 28 /dev/shm/more', '2 2', '3'])
  })
})

describe('the end of a process', () => {
  const work = `
    const memory = await host.allocate({ bytes: 256 << 20, lock: false })
    const ranges = new Float64Array(3 * 400)
    for (let i = 0; i < 400; i++) ranges.set([0, 0, 256 << 20], 3 * i)
    const running = host.digest([memory], ranges, 2)
  `

  it('may come while an operation runs: exit, uncaught error, signal', async () => {
    await inProcess(`${work}; setTimeout(() => process.exit(0), 20)`)
    await inProcess(`${work}; process.exit(0)`)
    await expect(inProcess(`${work}; setTimeout(() => { throw new Error('x') }, 20)`)).rejects.toMatchObject({ code: 1 })
    await expect(inProcess(`${work}; setTimeout(() => process.kill(process.pid, 'SIGTERM'), 20)`)).rejects.toMatchObject({
      signal: 'SIGTERM',
    })
  })

  it('waits for a promise, and does not wait for idle threads', async () => {
    const output = await inProcess(`
      const memory = await host.allocate({ bytes: 32 << 20, lock: false })
      host.fill(memory, 0, 32 << 20, 1n, 2).then(() => console.log('filled'))
    `)
    expect(output).toBe('filled\n')
  })

  it('may come to a worker_thread in the middle of its work, again and again', async () => {
    const output = await inProcess(`
      import { Worker } from 'node:worker_threads'
      const source = ${JSON.stringify(`
        import { parentPort } from 'node:worker_threads'
        import { loadNativeHost } from ${JSON.stringify(addon)}
        const host = loadNativeHost()
        ${work}
        host.read(['/proc/self/exe'], [memory], new Float64Array([0, 0, 0, 0, 1 << 20]), 1, () => {}).catch(() => {})
        const view = memory.window(0, 100)
        parentPort.postMessage('working')
        await running
      `)}
      for (let i = 0; i < 8; i++) {
        const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(source)))
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        if (i % 2 === 1) await new Promise((resolve) => setTimeout(resolve, 10))
        await worker.terminate()
      }
      const { readdirSync, readFileSync } = await import('node:fs')
      const names = readdirSync('/proc/self/task').map((id) => readFileSync('/proc/self/task/' + id + '/comm', 'utf8').trim())
      console.log(names.filter((name) => name === 'ckpt-host').length)
    `)
    expect(output).toBe('0\n')
  })
})
