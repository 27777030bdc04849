import { spawn } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { ParameterServer, controlEngine, controlRequest, direct, type UpdateReport } from '@ckpt/core'
import { writeFile } from '@ckpt/safetensors'
import { describe, expect, it } from 'vitest'
import { freePort, pythonInterpreter, pythonLacks, wrap } from '@ckpt/testing'

const noWorker = pythonLacks('torch', 'zmq', 'msgspec', 'safetensors', 'ckpt_worker', 'ckpt_reference')
const PROGRAM = fileURLToPath(new URL('./recordings/odd_engine.py', import.meta.url))
const LIMIT = { timeout: 180_000 }

type Weights = Readonly<Record<string, Uint8Array>>
const bytes = (count: number): Uint8Array => randomFillSync(new Uint8Array(count))

/** An engine of a kind that odd_engine.py supports, and a rank that updates it with files of bytes. */
class Odd implements AsyncDisposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'ckpt-recordings-'))
  readonly #socket = join(this.#directory, 'engine.sock')
  readonly #engine
  #server: ParameterServer | undefined
  #step = 0

  constructor(kind: string, ...more: string[]) {
    const args = [PROGRAM, kind, '--control', this.#socket, ...more]
    this.#engine = wrap(`${kind} engine`, spawn(pythonInterpreter(), args, { stdio: ['ignore', 'inherit', 'pipe'] }))
  }

  async update(weights: Weights, checkEvery?: number): Promise<{ report: UpdateReport; equal: boolean }> {
    while (!existsSync(this.#socket)) {
      if (this.#engine.child.exitCode !== null) throw new Error(this.#engine.stderr())
      await sleep(50)
    }
    const rendezvous = `tcp://127.0.0.1:${await freePort()}`
    const server = (this.#server ??= await ParameterServer.create({ rank: 0, worldSize: 1, rendezvous, timeoutMs: 60_000 }))
    const name = `step-${this.#step++}`
    const file = join(this.#directory, `${name}.safetensors`)
    const tensors = Object.entries(weights).map(([key, data]) => ({
      name: key,
      dtype: 'U8' as const,
      shape: [data.byteLength / 16, 16],
      data,
    }))
    await writeFile(file, tensors)
    await server.registerCheckpoint(name, { files: [file] })
    const strategy = direct(checkEvery === undefined ? {} : { checkEvery })
    const report = await server.update(name, { engine: controlEngine({ socket: this.#socket }), strategy })
    const { verified } = (await controlRequest(this.#socket, 'POST', '/verify', { files: [file] })) as { verified: boolean }
    return { report, equal: verified }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server?.close()
    await this.#engine.stop('SIGTERM', 8000)
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

async function failure(promise: Promise<unknown>): Promise<CkptError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!CkptError.is(error)) throw new Error(`not a CkptError: ${String(error)}`)
  return error
}

/** Two layers of two tensors that have places of the same form. */
const layers = (): Weights =>
  Object.fromEntries([0, 1].flatMap((i) => ['left', 'right'].map((part) => [`model.layers.${i}.${part}.weight`, bytes(4096)])))

describe('recordings of odd loaders', () => {
  it('follow copies into the threads of a pool that was there before', LIMIT, async ({ skip }) => {
    if (noWorker !== undefined) skip(`no Python worker: ${noWorker}`)
    await using engine = new Odd('threads')
    const experts = (): Weights =>
      Object.fromEntries([
        ['model.layers.0.mlp.gate.weight', bytes(256)],
        ...[0, 1].flatMap((e) =>
          ['gate_proj', 'up_proj', 'down_proj'].map((p) => [`model.layers.0.mlp.experts.${e}.${p}.weight`, bytes(1024)]),
        ),
      ]) as Weights
    const strategies = []
    for (let step = 0; step < 5; step++) {
      const { report, equal } = await engine.update(experts())
      expect(equal).toBe(true)
      strategies.push(report.strategy)
    }
    expect(strategies).toEqual(['broadcast', 'broadcast', 'direct', 'direct', 'direct'])
  })

  it('that stay right pass their checks, in the second update and then in each so-many-th', LIMIT, async ({ skip }) => {
    if (noWorker !== undefined) skip(`no Python worker: ${noWorker}`)
    for (const more of [[], ['--unshared']]) {
      await using engine = new Odd('plain', ...more)
      for (const [step, checked] of [false, false, false, true, false, true, false].entries()) {
        const { report, equal } = await engine.update(layers(), 4)
        expect(equal).toBe(true)
        expect(report.direct?.check !== undefined, `step ${step} ${more.join()}`).toBe(checked)
        if (checked) {
          expect(report.direct!.check!.layer).toMatch(/^model\.layers\.[01]$/)
          expect(report.direct!.check).toMatchObject({ tensors: 2, bytes: 8192 })
        }
      }
    }
  })

  it('that turn out wrong fail a checked update, are dropped, and the engine is recorded again', LIMIT, async ({ skip }) => {
    if (noWorker !== undefined) skip(`no Python worker: ${noWorker}`)
    await using engine = new Odd('once-swapped')
    for (let step = 0; step < 3; step++) expect((await engine.update(layers())).equal).toBe(true)
    const error = await failure(engine.update(layers()))
    expect(error.code).toBe('DIGEST_MISMATCH')
    expect(error.message).toMatch(
      /parameter 'model\.layers\.[01]\.(left|right)\.weight' differs from what the engine's own loader writes/,
    )
    const again = await engine.update(layers())
    expect(again).toMatchObject({ equal: true, report: { strategy: 'broadcast' } })
    expect(again.report.direct!.recorded).toBe('recorded: 2 routes, 2 opaque tensors')
    const { report, equal } = await engine.update(layers())
    expect(equal).toBe(true)
    expect(report.direct!.opaque.map(({ reason }) => reason)).toEqual(
      Array(2).fill('a spot check found its recorded routes wrong'),
    )
  })

  it('of two tensors for one place let them have the same bytes alone', LIMIT, async ({ skip }) => {
    if (noWorker !== undefined) skip(`no Python worker: ${noWorker}`)
    await using engine = new Odd('tied')
    const tied = (same: boolean): Weights => {
      const embed = bytes(4096)
      return {
        'model.embed_tokens.weight': embed,
        'lm_head.weight': same ? embed : bytes(4096),
        'model.norm.weight': bytes(64),
      }
    }
    const refused = async () => {
      const error = await failure(engine.update(tied(false)))
      expect(error).toMatchObject({ code: 'CHECKPOINT_MALFORMED', retryable: false })
      expect(error.message).toContain("'lm_head.weight'")
      expect(error.message).toContain("'model.embed_tokens.weight'")
      expect(error.message).toContain('have different bytes')
    }
    const strategies = []
    strategies.push((await engine.update(tied(true))).report.strategy)
    await refused()
    for (let step = 0; step < 2; step++) strategies.push((await engine.update(tied(true))).report.strategy)
    await refused()
    strategies.push((await engine.update(tied(true))).report.strategy)
    expect(strategies).toEqual(['broadcast', 'broadcast', 'direct', 'direct'])
  })

  it('leave what changes past torch to the loader', LIMIT, async ({ skip }) => {
    if (noWorker !== undefined) skip(`no Python worker: ${noWorker}`)
    await using engine = new Odd('hidden')
    for (let step = 0; step < 3; step++) {
      const { report } = await engine.update({ 'hidden.weight': bytes(4096), 'a.weight': bytes(4096) })
      if (step === 2) expect(report.direct!.opaque.map(({ name }) => name)).toEqual(['hidden.weight'])
    }
  })
})
