import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { generateModels, nodeArguments, vllmEnvironment, VllmServer } from '@ckpt/testing'
import { describe, expect, it } from 'vitest'
import { expectedFromDisk } from './expected.ts'

const environment = await vllmEnvironment()
const MAIN = fileURLToPath(new URL('../../../cli/src/main.ts', import.meta.url))
const run = promisify(execFile)

describe('real vLLM, from the shell', () => {
  it('is updated by `ckpt update` and answers as with the same weights from disk', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const { python } = environment
    using models = await generateModels(python, [
      { family: 'qwen3', seed: 1 },
      { family: 'qwen3', seed: 2 },
    ])
    const [first, second] = models.directories as [string, string]
    const expected = await expectedFromDisk(python, [first, second], 1)
    expect(expected[0]).not.toEqual(expected[1])
    await using server = await VllmServer.serving({ python, model: first, loadFormat: 'dummy' })

    const update = async (checkpoint: string, ...more: string[]) => {
      const line = ['update', '--engine', `vllm=${server.url}`, '--device', 'host', checkpoint, ...more]
      return (await run(process.execPath, [...nodeArguments(MAIN), ...line], { timeout: 300_000 })).stdout
    }
    // Each command is a process of its own; the recording is the engine's.
    expect(await update(first, '--version', 'one')).toMatch(/version one: .* to 1 engine worker\n.*how: staged, and recorded/s)
    expect(await server.complete()).toEqual(expected[0])
    expect(await update(join(second, 'model.safetensors'), '--version', 'two')).toMatch(/version two: .*how: direct/s)
    expect(await server.complete()).toEqual(expected[1])
    expect(await update(first, '--strategy', 'broadcast')).toMatch(/how: broadcast/)
    expect(await server.complete()).toEqual(expected[0])

    // An engine that is not there is named before the checkpoint is read.
    const gone = ['update', '--engine', 'vllm=http://127.0.0.1:9', '--timeout', '2', first]
    const failed: unknown = await run(process.execPath, [...nodeArguments(MAIN), ...gone]).catch((error: unknown) => error)
    expect(failed).toMatchObject({ code: 1 })
    const { stderr } = failed as { stderr: string }
    expect(stderr).toMatch(/rank 0: waiting for the vllm engine of rank 0 to answer on http:\/\/127\.0\.0\.1:9 .*, for 1 s now/)
    expect(stderr).toMatch(/ENGINE_UNREACHABLE: the engine at http:\/\/127\.0\.0\.1:9 was not ready within 2000 ms/)
    expect(stderr).not.toContain('register')
  })
})
