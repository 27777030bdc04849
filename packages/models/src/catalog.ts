import { CkptError } from '@ckpt/contract'
import type { Model, PublishedUpdate } from './model.ts'

const TABLE = 'checkpoint-engine 0.4.2, benchmark table of its README'

function update(
  devices: string,
  gatherMetasSeconds: number,
  [broadcastSeconds, broadcastBucketGiB]: [number, number],
  [p2pSeconds, p2pBucketGiB]: [number, number],
): PublishedUpdate {
  return { devices, gatherMetasSeconds, broadcastSeconds, broadcastBucketGiB, p2pSeconds, p2pBucketGiB, source: TABLE }
}

/** zai-org/GLM-4.5-Air: 46 layers, the first dense, and one MTP layer. */
const GLM_45_AIR: Model = {
  id: 'glm-4.5-air',
  title: 'GLM-4.5-Air (BF16)',
  repository: 'zai-org/GLM-4.5-Air',
  architecture: {
    hidden: 4096,
    layers: 46,
    denseLayers: 1,
    intermediate: 10944,
    vocab: 151552,
    attention: { kind: 'gqa', heads: 96, kvHeads: 8, headDim: 128, bias: true, qkNorm: false },
    moe: { experts: 128, intermediate: 1408, sharedExperts: 1, correctionBias: true },
    mtpLayers: 1,
    weights: 'bf16',
  },
  published: {
    tensors: 18_329,
    bytes: 220_937_661_440,
    parameters: 110_468_824_832,
    source: 'index and file headers of zai-org/GLM-4.5-Air at a24ceef6; parameters: Hugging Face safetensors metadata',
  },
  updates: [update('8xH800 TP8', 0.12, [3.47, 3.02], [4.12, 3.02])],
}

/** Qwen/Qwen3-235B-A22B-Instruct-2507. */
const QWEN3_235B: Model = {
  id: 'qwen3-235b-a22b',
  title: 'Qwen3-235B-A22B-Instruct-2507 (BF16)',
  repository: 'Qwen/Qwen3-235B-A22B-Instruct-2507',
  architecture: {
    hidden: 4096,
    layers: 94,
    denseLayers: 0,
    intermediate: 12288,
    vocab: 151936,
    attention: { kind: 'gqa', heads: 64, kvHeads: 4, headDim: 128, bias: false, qkNorm: true },
    moe: { experts: 128, intermediate: 1536, sharedExperts: 0, correctionBias: false },
    mtpLayers: 0,
    weights: 'bf16',
  },
  published: {
    tensors: 36_945,
    bytes: 470_187_269_120,
    parameters: 235_093_634_560,
    parametersByDtype: { BF16: 235_093_634_560 },
    source: 'model.safetensors.index.json (keys, total_size); parameters: Hugging Face safetensors metadata',
  },
  updates: [update('8xH800 TP8', 0.33, [6.22, 2.67], [7.1, 2.68])],
}

/** deepseek-ai/DeepSeek-V3.1: 61 layers, three of them dense, and the MTP layer 61. */
const DEEPSEEK_V31: Model = {
  id: 'deepseek-v3.1',
  title: 'DeepSeek-V3.1 (FP8)',
  repository: 'deepseek-ai/DeepSeek-V3.1',
  architecture: {
    hidden: 7168,
    layers: 61,
    denseLayers: 3,
    intermediate: 18432,
    vocab: 129280,
    attention: { kind: 'mla', heads: 128, qLoraRank: 1536, kvLoraRank: 512, nopeDim: 128, ropeDim: 64, valueDim: 128 },
    moe: { experts: 256, intermediate: 2048, sharedExperts: 1, correctionBias: true },
    mtpLayers: 1,
    weights: 'fp8-128',
  },
  published: {
    tensors: 91_991,
    // No `bytes`: the index's total_size assumes two bytes per element. The files' sizes and the counts by dtype are right.
    fileBytes: 688_586_727_753,
    parameters: 684_531_386_000,
    parametersByDtype: { F8_E4M3: 680_571_043_840, BF16: 3_918_786_560, F32: 41_555_600 },
    source:
      'parameters and file sizes as listed for DeepSeek-V3.1; keys of the index and counts by dtype as listed for DeepSeek-V3 and R1, ' +
      'whose architecture, total parameters and file sizes are the same',
  },
  updates: [update('16xH20 TP16', 1.17, [10.19, 5.39], [11.8, 5.41]), update('256xH20 TP16', 0.8, [11.33, 8], [11.81, 8])],
}

/** moonshotai/Kimi-K2-Instruct: 61 layers, the first dense, no MTP layer. */
const KIMI_K2: Model = {
  id: 'kimi-k2',
  title: 'Kimi-K2-Instruct (FP8)',
  repository: 'moonshotai/Kimi-K2-Instruct',
  architecture: {
    hidden: 7168,
    layers: 61,
    denseLayers: 1,
    intermediate: 18432,
    vocab: 163840,
    attention: {
      kind: 'mla',
      heads: 64,
      qLoraRank: 1536,
      kvLoraRank: 512,
      nopeDim: 128,
      ropeDim: 64,
      valueDim: 128,
      inverseFrequencies: 56,
    },
    moe: { experts: 384, intermediate: 2048, sharedExperts: 1, correctionBias: true },
    mtpLayers: 0,
    weights: 'fp8-128',
  },
  published: {
    tensors: 139_644,
    bytes: 1_029_173_256_720,
    source:
      'model.safetensors.index.json (total_size) and file headers; the parameter count in the Hugging Face metadata ' +
      '(1,026,408,235,864) leaves the weight_scale_inv tensors out',
  },
  updates: [update('16xH20 TP16', 1.33, [14.36, 5.89], [17.49, 5.91]), update('256xH20 TP16', 1.22, [16.04, 8], [16.75, 8])],
}

const QWEN3_30B: Model = {
  id: 'qwen3-30b-a3b',
  title: 'Qwen3-30B-A3B (BF16)',
  repository: 'Qwen/Qwen3-30B-A3B',
  architecture: {
    hidden: 2048,
    layers: 48,
    denseLayers: 0,
    intermediate: 6144,
    vocab: 151936,
    attention: { kind: 'gqa', heads: 32, kvHeads: 4, headDim: 128, bias: false, qkNorm: true },
    moe: { experts: 128, intermediate: 768, sharedExperts: 0, correctionBias: false },
    mtpLayers: 0,
    weights: 'bf16',
  },
  published: {
    tensors: 18_867,
    bytes: 61_064_245_248,
    parameters: 30_532_122_624,
    source: 'model.safetensors.index.json (keys, total_size); parameters: Hugging Face safetensors metadata',
  },
  updates: [],
}

const LLAMA_31_8B: Model = {
  id: 'llama-3.1-8b',
  title: 'Llama-3.1-8B (BF16)',
  repository: 'meta-llama/Llama-3.1-8B',
  architecture: {
    hidden: 4096,
    layers: 32,
    denseLayers: 32,
    intermediate: 14336,
    vocab: 128256,
    attention: { kind: 'gqa', heads: 32, kvHeads: 8, headDim: 128, bias: false, qkNorm: false },
    mtpLayers: 0,
    weights: 'bf16',
  },
  published: {
    tensors: 291,
    bytes: 16_060_522_496,
    parameters: 8_030_261_248,
    source: 'model.safetensors.index.json (keys, total_size); parameters: Hugging Face safetensors metadata',
  },
  updates: [],
}

/** Every model this package knows, those of checkpoint-engine's table first. */
export const MODELS: readonly Model[] = [GLM_45_AIR, QWEN3_235B, DEEPSEEK_V31, KIMI_K2, QWEN3_30B, LLAMA_31_8B]

/**
 * Returns the model with this id, title or Hugging Face repository, ignoring case.
 * @throws CkptError `INVALID_ARGUMENT` naming the existing ids.
 */
export function model(name: string): Model {
  const wanted = name.toLowerCase()
  const found = MODELS.find(({ id, title, repository }) => [id, title, repository].some((key) => key.toLowerCase() === wanted))
  if (found === undefined) {
    throw new CkptError('INVALID_ARGUMENT', `no model ${name}; expected one of ${MODELS.map(({ id }) => id).join(', ')}`, {
      fields: { field: 'model' },
    })
  }
  return found
}
