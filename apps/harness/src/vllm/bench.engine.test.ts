import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { nodeArguments, vllmEnvironment } from '@ckpt/testing'
import { afterAll, describe, expect, it } from 'vitest'

const environment = await vllmEnvironment()
const directory = mkdtempSync(join(tmpdir(), 'ckpt-bench-test-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** Runs the bench of real vLLM with a small model; resolves to its output. */
function bench(python: string, ...more: string[]): Promise<{ stdout: string; stderr: string }> {
  const main = nodeArguments(new URL('../../../bench/src/main.ts', import.meta.url))
  const own = [
    '--engine',
    'vllm',
    '--backend',
    'host',
    '--python',
    python,
    '--bytes',
    '2MB',
    '--work-dir',
    join(directory, 'work'),
  ]
  return promisify(execFile)(process.execPath, [...main, ...own, ...more], { cwd: directory, timeout: 900_000 })
}

describe('the bench of real vLLM', () => {
  it('updates it from a registration for each step, with answers as from disk', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const json = join(directory, 'result.json')
    const { stderr, stdout } = await bench(environment.python, '--ranks', '2', '--repeat', '2', '--json', json)
    const samples = { samples: [expect.any(Number), expect.any(Number)] as unknown[] }
    expect(JSON.parse(readFileSync(json, 'utf8'))).toMatchObject({
      schema: 2,
      runs: [
        {
          ...{ engine: 'vllm', model: 'qwen3-moe', backend: 'host', ranks: 2, quantization: 'none', source: 'files' },
          ...{ requested: 'auto', strategy: 'direct', freshRegistration: true, answersEqual: true },
          firstUpdateMs: expect.any(Number) as number,
          updateMs: samples,
          pause: { longestTokenGapMs: expect.any(Number) as number, updateMs: samples },
          updates: ['B', 'A', 'B', 'A', 'B'].map((checkpoint) => ({ checkpoint, answersEqual: true })),
        },
      ],
    })
    expect(stdout).toContain('answers equal')
    expect(stderr).toMatch(/^\[ *\d+\.\d s\] 5 of 5, B, streamed: auto as direct: .*, answers equal$/m)
    // The servers' output stays beside the result; the checkpoints do not stay.
    expect(readdirSync(directory)).toEqual(expect.arrayContaining(['vllm-a.log', 'vllm-b.log']))
    expect(readdirSync(join(directory, 'work'))).toEqual([])
  })

  it('ends with what a server said that does not start', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const failed = bench(environment.python, '--ranks', '1', '--engine-args', '--no-such-option 1')
    await expect(failed).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /ENGINE_UNREACHABLE: vLLM server [AB] does not serve: .*exited \(2\)[^]*--no-such-option/,
      ) as string,
    })
    expect(readdirSync(join(directory, 'work'))).toEqual([])
  })
})
