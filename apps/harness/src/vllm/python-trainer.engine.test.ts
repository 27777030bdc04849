import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { generateModels, pythonInterpreter, pythonLacks, vllmEnvironment, VllmServer } from '@ckpt/testing'
import { expectedFromDisk } from './expected.ts'

const run = promisify(execFile)
const environment = await vllmEnvironment()
const noTrainer = pythonLacks('torch', 'msgspec', 'safetensors')
const PACKAGE = fileURLToPath(new URL('../../../../packages/python/src', import.meta.url))

/** A trainer: its "training" loads the weights of one model after the other. */
const TRAINER = `
import sys
from safetensors.torch import load_file
from ckpt import ParameterServer, vllm

url, *models = sys.argv[1:]
with ParameterServer() as ps:
    for path in models:
        ps.register_checkpoint("step", named_tensors=load_file(path))
        ready = ps.prepare("step", engine=vllm(url))
        assert ready.prepared or ready.reason, ready
        report = ps.update("step", engine=vllm(url))
        ps.unregister_checkpoint("step")
        print(report.version, report.strategy, report.verified)
`

describe('real vLLM', () => {
  it('updated by a Python trainer answers as with the same weights from disk', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    if (noTrainer !== undefined) return skip(`no Python trainer: ${noTrainer}`)
    const { python } = environment
    using models = await generateModels(python, [
      { family: 'qwen3', seed: 1 },
      { family: 'qwen3', seed: 2 },
    ])
    const [first, second] = models.directories as [string, string]
    const expected = await expectedFromDisk(python, [first, second], 1)
    await using server = await VllmServer.serving({ python, model: first, loadFormat: 'dummy' })
    const train = async (...steps: string[]) => {
      const files = steps.map((directory) => join(directory, 'model.safetensors'))
      const env = { ...process.env, PYTHONPATH: PACKAGE }
      const { stdout } = await run(pythonInterpreter(), ['-c', TRAINER, server.url, ...files], { env, timeout: 300_000 })
      return stdout.trim().split('\n')
    }
    expect(await train(first)).toEqual([expect.stringMatching(/^step (broadcast|direct) (sources|bytes)$/)])
    expect(await server.complete()).toEqual(expected[0])
    expect(await train(first, second)).toContainEqual(expect.stringMatching(/^step direct (sources|bytes)$/))
    expect(await server.complete()).toEqual(expected[1])
  })
})
