import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { EngineProcess, generateCheckpoint, type GeneratedCheckpoint, leftovers, nodeArguments } from '@ckpt/testing'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const RANKS = 2

/** True if the process that a path is named after runs: not one of those that the test has started. */
function isOfRunning(path: string): boolean {
  return existsSync(`/proc/${/ckpt-(?:[a-z]+-)?(\d+)-/.exec(path)?.[1]}`)
}

describe('ckpt watch', { timeout: 180_000 }, () => {
  let checkpoints: GeneratedCheckpoint[]
  let directory: string
  let engines: EngineProcess[]
  const engine = (tpRank: number) =>
    new EngineProcess({ kind: 'typescript', directory, checkpoint: checkpoints[0]!.directory, tpRank, tpSize: RANKS })
  beforeAll(async () => {
    const host = createHost()
    checkpoints = []
    for (const seed of [1n, 2n, 3n]) {
      checkpoints.push(await generateCheckpoint(host, model('qwen3-30b-a3b'), 8 * 2 ** 20, seed, `watch-${seed}`))
    }
    directory = mkdtempSync(join(tmpdir(), 'ckpt-watch-test-'))
    engines = Array.from({ length: RANKS }, (_, rank) => engine(rank))
    await Promise.all(engines.map((engine) => engine.ready()))
  }, 120_000)
  afterAll(async () => {
    await Promise.all(engines.map(({ process }) => process.stop()))
    rmSync(directory, { recursive: true, force: true })
    for (const checkpoint of checkpoints) checkpoint[Symbol.dispose]()
  })

  it('updates the engines when a new version is complete, goes on after one that fails, and ends on request', async () => {
    const versions = join(directory, 'versions')
    const before = new Set(leftovers())
    const publish = (index: number, name: string) => {
      cpSync(checkpoints[index]!.directory, join(versions, `.${name}`), { recursive: true })
      renameSync(join(versions, `.${name}`), join(versions, name))
    }
    mkdirSync(versions)
    publish(0, 'step-9')
    const line = ['watch', versions, '--engine', `control=${join(directory, 'engine-typescript-{rank}.sock')}`]
    const options = ['--nproc', String(RANKS), '--interval', '1', '--settle', '0', '--timeout', '8']
    const child = spawn(process.execPath, [...nodeArguments(MAIN), ...line, ...options], {
      env: { ...process.env, HARNESS_MARK: randomUUID() },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text))
    const ended = once(child, 'close')
    const says = async (text: string) => {
      while (!output.includes(text)) {
        if (child.exitCode !== null) throw new Error(`ckpt watch ended: ${output}`)
        await sleep(50)
      }
    }
    try {
      await says('version step-9: ')
      for (const one of engines) {
        expect(await one.verify(checkpoints[0]!.files)).toMatchObject({ verified: true })
        expect(await one.health()).toMatchObject({ version: 'step-9', dirty: false })
      }
      // Not complete: one of its files has a name for what is being written.
      const part = join(versions, 'step-10')
      cpSync(checkpoints[1]!.directory, part, { recursive: true })
      const [name] = readdirSync(part).filter((one) => one.endsWith('.safetensors'))
      renameSync(join(part, name!), join(part, `.${name}`))
      publish(2, 'step-11')
      await says('version step-11: ')
      for (const one of engines) expect(await one.verify(checkpoints[2]!.files)).toMatchObject({ verified: true })
      expect(output).not.toContain('step-10')
      // An engine that is away: the same version is tried again.
      await engines[1]!.process.stop()
      publish(1, 'step-12')
      await says('version step-12 failed: ')
      expect(output).toContain('again in 5 s')
      engines[1] = engine(1)
      await engines[1].ready()
      await says('version step-12: ')
      for (const one of engines) {
        expect(await one.verify(checkpoints[1]!.files)).toMatchObject({ verified: true })
        expect(await one.health()).toMatchObject({ version: 'step-12', dirty: false })
      }
      expect(output.match(/^version /gm)).toHaveLength(3)
    } finally {
      child.kill('SIGTERM')
      expect(await ended, output).toEqual([0, null])
    }
    expect(leftovers().filter((path) => !before.has(path) && !isOfRunning(path))).toEqual([])
  })
})
