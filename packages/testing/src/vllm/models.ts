import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Shapes of tiny models that generate_model.py can create; `adapter` is a LoRA adapter for `llama`. */
export type ModelFamily = 'qwen3' | 'qwen2' | 'llama' | 'qwen2-tied' | 'llama-tied' | 'qwen3-moe' | 'adapter'

export interface ModelRequest {
  readonly family: ModelFamily
  /** Models of a family with different seeds differ in every tensor. */
  readonly seed: number
  /** Fields that should differ in the model's configuration. */
  readonly config?: Readonly<Record<string, unknown>>
}

/** Tiny models on disk, with tokenizers; removed when disposed of, or when the process exits. */
export interface TinyModels extends Disposable {
  /**
   * One directory per request, in their order: config.json, model.safetensors and a tokenizer whose words are `<0>`, `<1>` …
   */
  readonly directories: readonly string[]
}

/** Writes models with an interpreter that has transformers (vLLM's has). Takes about 5 s for any number of them. */
export async function generateModels(python: string, requests: readonly ModelRequest[]): Promise<TinyModels> {
  const root = mkdtempSync(join(tmpdir(), `ckpt-models-${process.pid}-`))
  const remove = () => rmSync(root, { recursive: true, force: true })
  process.on('exit', remove)
  const directories = requests.map(({ family, seed }, index) => join(root, `${index}-${family}-${seed}`))
  const file = join(root, 'requests.json')
  writeFileSync(file, JSON.stringify(requests.map((request, index) => ({ ...request, directory: directories[index] }))))
  const program = fileURLToPath(new URL('./generate_model.py', import.meta.url))
  await run(python, [program, file], { timeout: 300_000, env: { ...process.env, HF_HUB_OFFLINE: '1' } })
  return {
    directories,
    [Symbol.dispose]() {
      process.off('exit', remove)
      remove()
    },
  }
}
