import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it } from 'vitest'

const URL_OF_PROCESS = new URL('../lib/process.mjs', import.meta.url).href

/** A process that runs `script` with Node as run.mjs runs its programs, and ends as that one ends. */
function wrapped(script: string) {
  const code = `import { exitLike, run } from ${JSON.stringify(URL_OF_PROCESS)}
exitLike(await run(process.execPath, ['-e', ${JSON.stringify(script)}]))`
  return spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
}

async function endOf(child: ReturnType<typeof wrapped>): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  return { code, signal }
}

describe('a program started by run.mjs', () => {
  it('hands its exit code on', async () => {
    expect(await endOf(wrapped('process.exit(7)'))).toEqual({ code: 7, signal: null })
  })

  it('hands on that a signal ended it', async () => {
    expect(await endOf(wrapped('process.kill(process.pid, "SIGTERM")'))).toEqual({ code: null, signal: 'SIGTERM' })
  })

  it.each(['SIGINT', 'SIGTERM'] as const)('gets %s, and is waited for while it cleans up', async (signal) => {
    const child = wrapped(`process.on('${signal}', () => setTimeout(() => { console.log('clean'); process.exit(5) }, 300))
setInterval(() => {}, 1000)
console.log('ready')`)
    const end = endOf(child)
    let output = ''
    for await (const part of child.stdout) {
      output += String(part)
      if (output === 'ready\n') child.kill(signal)
    }
    expect(output).toBe('ready\nclean\n')
    expect(await end).toEqual({ code: 5, signal: null })
  })
})
