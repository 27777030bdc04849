import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { z } from 'zod'
import { vllmVariables } from '@ckpt/testing'

const run = promisify(execFile)

const answerSchema = z.array(
  z.object({
    how: z.string(),
    error: z.string().optional(),
    different: z.array(z.string()),
    opaque: z.record(z.string(), z.number()),
    parameters: z.number().optional(),
  }),
)

export interface LoadsRequest {
  readonly python: string
  /** Directory of the model with which vLLM is started, with generated weights. */
  readonly model: string
  /** Directories of the weights that are loaded one after the other. */
  readonly updates: readonly string[]
  /** Options of vLLM, and environment. */
  readonly options?: Readonly<Record<string, unknown>>
  readonly env?: Readonly<Record<string, string>>
}

/** Compares vLLM's parameters after each update with what it loads from disk (check_loads.py). */
export async function checkLoads(request: LoadsRequest): Promise<z.infer<typeof answerSchema>> {
  const { python, model, updates, options = {}, env } = request
  const home = mkdtempSync(join(tmpdir(), `ckpt-loads-${process.pid}-`))
  try {
    const [input, output] = [join(home, 'request.json'), join(home, 'answer.json')]
    writeFileSync(input, JSON.stringify({ model, updates, options }))
    const program = fileURLToPath(new URL('./check_loads.py', import.meta.url))
    const variables = { ...vllmVariables(home, { PYTHONPATH: dirname(program), ...env }), VLLM_ENABLE_V1_MULTIPROCESSING: '0' }
    await run(python, [program, input, output], {
      timeout: 1_200_000,
      env: { ...process.env, ...variables },
      maxBuffer: 2 ** 26,
    })
    return answerSchema.parse(JSON.parse(readFileSync(output, 'utf8')))
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}
