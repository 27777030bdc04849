import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Completion, PROMPTS, TOKENS, vllmVariables } from '@ckpt/testing'

const run = promisify(execFile)

export interface ExpectedOptions {
  readonly extension?: string
  readonly env?: Readonly<Record<string, string>>
  /** With `--enable-lora`. */
  readonly lora?: boolean
  /** Directory of the adapter to use for answers. */
  readonly adapter?: string
}

/**
 * Returns vLLM's answers with each model's weights, loaded from disk by vLLM itself, in a process that then ends. About 15 s,
 * and 5 s per model on one worker, 30 s on several.
 */
export async function expectedFromDisk(
  python: string,
  models: readonly string[],
  tensorParallelSize: number,
  options: ExpectedOptions = {},
): Promise<readonly (readonly Completion[])[]> {
  const home = mkdtempSync(join(tmpdir(), `ckpt-expected-${process.pid}-`))
  try {
    const [requests, answers] = [join(home, 'requests.json'), join(home, 'answers.json')]
    const { extension, adapter, lora = false } = options
    const vllmOptions = {
      ...(extension !== undefined && { worker_extension_cls: extension }),
      ...(lora && { enable_lora: true, max_lora_rank: 8 }),
    }
    const common = { prompts: PROMPTS, tokens: TOKENS, tensorParallelSize, options: vllmOptions }
    writeFileSync(requests, JSON.stringify({ models, ...common, ...(adapter !== undefined && { adapter }) }))
    const program = fileURLToPath(new URL('./expected.py', import.meta.url))
    // One process if possible, because each engine process imports everything again.
    const one = tensorParallelSize === 1 ? { VLLM_ENABLE_V1_MULTIPROCESSING: '0' } : {}
    const env = { ...process.env, ...vllmVariables(home, options.env), ...one }
    await run(python, [program, requests, answers], { timeout: 1_500_000, env, maxBuffer: 2 ** 26 })
    return JSON.parse(readFileSync(answers, 'utf8')) as Completion[][]
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}
