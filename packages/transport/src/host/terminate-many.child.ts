// Terminates many threads, each at a random moment of work of the host addon; for processes.test.ts. The threads load only the
// addon, which is quick.
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'

const MIB = 2 ** 20
const ROUNDS = 8

/** Endless work of a thread, with the addon `a` and its memories `m` and `n`, of a MiB each. */
const WORK: Record<string, string> = {
  'copy and digest': `await Promise.all([
    a.copy([m, n], Float64Array.of(0, 0, 0, 1, 0, 0, ${MIB}, 1), 2),
    a.digest([m, n], Float64Array.of(0, 0, ${MIB}), 2),
    a.fill(m, 0, ${MIB}, 1n, 2)])`,
  'register: allocate, read with progress, map, close': `
    const own = await a.allocate({ bytes: ${MIB}, shareable: true })
    await a.read([file], [own], Float64Array.of(0, 0, 0, 0, ${MIB}), 2, (bytes) => Math.sqrt(bytes))
    const mapped = await a.mapFile(file)
    mapped.window(0, 10)
    mapped.close()
    own.close()`,
  'calls that return at once': `
    for (let i = 0; i < 1000; i++) {
      m.window(i, 100)
      a.memoryLimits()
      a.newCancellation()
      a.removeAtEnd('/nonexistent/' + i)()
    }`,
  'calls that throw': `
    for (let i = 0; i < 1000; i++)
      for (const wrong of [() => m.window(${MIB}, 1), () => a.digest([{}], new Float64Array(3)), () => a.copy([m], new Float64Array(3))])
        try { wrong() } catch {}`,
  'calls that reject': `
    await Promise.allSettled(Array.from({ length: 20 }, () => a.mapFile('/nonexistent')))
    await Promise.allSettled([a.openBeneath(1 << 20, 'x'), a.read(['/nonexistent'], [m], Float64Array.of(0, 0, 0, 0, 1))])`,
}

const directory = mkdtempSync(join(tmpdir(), 'ckpt-terminate-'))
const file = join(directory, 'file')
writeFileSync(file, Buffer.alloc(MIB))
try {
  for (const [what, work] of Object.entries(WORK)) {
    process.send!({ what })
    const code = `
      const { parentPort } = require('node:worker_threads')
      import(${JSON.stringify(import.meta.resolve('@ckpt/native-host'))}).then(async ({ loadNativeHost }) => {
        const a = loadNativeHost()
        const file = ${JSON.stringify(file)}
        const [m, n] = [await a.allocate({ bytes: ${MIB} }), await a.allocate({ bytes: ${MIB} })]
        parentPort.postMessage('started')
        for (;;) {
          ${work}
          await new Promise((resolve) => setImmediate(resolve))
        }
      })`
    for (let round = 0; round < ROUNDS; round++) {
      const worker = new Worker(code, { eval: true, execArgv: [] })
      worker.on('error', (error) => process.send!({ what: `${what}: ${String(error)}` }))
      await once(worker, 'message')
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 20))
      await worker.terminate()
    }
  }
} finally {
  rmSync(directory, { recursive: true, force: true })
}
process.send!({ what: 'done' })
