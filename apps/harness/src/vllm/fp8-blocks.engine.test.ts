import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { vllmEnvironment, vllmVariables } from '@ckpt/testing'

const run = promisify(execFile)
const environment = await vllmEnvironment()
const PROGRAM = fileURLToPath(new URL('./fp8_blocks.py', import.meta.url))

const LAYERS = 2
const CONFIG = {
  architectures: ['Qwen3MoeForCausalLM'],
  model_type: 'qwen3_moe',
  hidden_size: 256,
  intermediate_size: 512,
  num_hidden_layers: LAYERS,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 64,
  moe_intermediate_size: 256,
  num_experts: 8,
  num_experts_per_tok: 2,
  norm_topk_prob: true,
  decoder_sparse_step: 1,
  mlp_only_layers: [],
  vocab_size: 512,
  max_position_embeddings: 4096,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  quantization_config: {
    quant_method: 'fp8',
    fmt: 'e4m3',
    activation_scheme: 'dynamic',
    weight_block_size: [128, 128],
    modules_to_not_convert: ['lm_head', ...Array.from({ length: LAYERS }, (_, layer) => `model.layers.${layer}.mlp.gate`)],
  },
}

describe("real vLLM's layers in FP8 blocks", () => {
  it.for([
    ['TritonFp8BlockScaledMMKernel', 'float32'],
    ['CutlassFp8BlockScaledMMKernel', 'bfloat16'],
  ] as const)(
    'are written in place and by routes, as %s leaves them, with scales in %s',
    async ([kernel, scales], { skip }) => {
      if (environment.missing !== undefined) return skip(environment.missing)
      const home = mkdtempSync(join(tmpdir(), `ckpt-fp8-${process.pid}-`))
      try {
        writeFileSync(join(home, 'config.json'), JSON.stringify(CONFIG))
        const answer = join(home, 'answer.json')
        const variables = { ...vllmVariables(home), VLLM_ENABLE_V1_MULTIPROCESSING: '0', VLLM_USE_DEEP_GEMM: '0' }
        await run(environment.python, [PROGRAM, home, kernel, scales, answer], {
          timeout: 600_000,
          env: { ...process.env, ...variables },
          maxBuffer: 2 ** 26,
        })
        // Scales of another type pass through the loader once, and are cast as it does it from then on.
        const cast = scales === 'float32' ? 0 : 56
        expect(JSON.parse(readFileSync(answer, 'utf8'))).toEqual({
          refusal: null,
          opaque: cast,
          routes: 125 - cast,
          different: { rehearsed: [], 'loaded in place': [], 'copied, 3': [], 'copied, 2': [] },
          loaded: [cast, 0],
          moved: [],
        })
      } finally {
        rmSync(home, { recursive: true, force: true })
      }
    },
  )
})
