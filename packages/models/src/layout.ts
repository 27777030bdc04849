import type { DType } from '@ckpt/contract'
import type { Architecture, GqaAttention, MlaAttention, MoeLayers } from './architecture.ts'

/** Receives one tensor. */
export type Emit = (name: string, dtype: DType, shape: readonly number[]) => void

/** Rows and columns that share one FP8 scale. */
const FP8_BLOCK = 128

/** Emits every tensor of a checkpoint of this architecture by its Hugging Face name: embedding, layers, MTP layers, norm, head. */
export function emitCheckpoint(architecture: Architecture, emit: Emit): void {
  const { hidden, layers, vocab, mtpLayers } = architecture
  emit('model.embed_tokens.weight', 'BF16', [vocab, hidden])
  for (let layer = 0; layer < layers + mtpLayers; layer++) {
    emitLayer(architecture, layer, emit)
    if (layer >= layers) emitPredictor(architecture, `model.layers.${layer}`, emit)
  }
  emit('model.norm.weight', 'BF16', [hidden])
  emit('lm_head.weight', 'BF16', [vocab, hidden])
}

function emitLayer(architecture: Architecture, layer: number, emit: Emit): void {
  const { hidden, attention, moe, denseLayers, intermediate } = architecture
  const prefix = `model.layers.${layer}`
  const project = projection(architecture, emit)
  emit(`${prefix}.input_layernorm.weight`, 'BF16', [hidden])
  if (attention.kind === 'gqa') emitGqa(attention, hidden, `${prefix}.self_attn`, emit, project)
  else emitMla(attention, hidden, `${prefix}.self_attn`, emit, project)
  emit(`${prefix}.post_attention_layernorm.weight`, 'BF16', [hidden])
  if (moe === undefined || layer < denseLayers) emitMlp(intermediate, hidden, `${prefix}.mlp`, project)
  else emitMoe(moe, hidden, `${prefix}.mlp`, emit, project)
}

/**
 * Emits the additional tensors of a multi-token-prediction layer compared with a decoder layer, including copies of embedding
 * and head.
 */
function emitPredictor({ hidden, vocab }: Architecture, prefix: string, emit: Emit): void {
  emit(`${prefix}.embed_tokens.weight`, 'BF16', [vocab, hidden])
  emit(`${prefix}.enorm.weight`, 'BF16', [hidden])
  emit(`${prefix}.hnorm.weight`, 'BF16', [hidden])
  emit(`${prefix}.eh_proj.weight`, 'BF16', [hidden, 2 * hidden])
  emit(`${prefix}.shared_head.norm.weight`, 'BF16', [hidden])
  emit(`${prefix}.shared_head.head.weight`, 'BF16', [vocab, hidden])
}

type Project = (name: string, rows: number, columns: number) => void

function projection({ weights }: Architecture, emit: Emit): Project {
  if (weights === 'bf16') return (name, rows, columns) => emit(`${name}.weight`, 'BF16', [rows, columns])
  return (name, rows, columns) => {
    emit(`${name}.weight`, 'F8_E4M3', [rows, columns])
    emit(`${name}.weight_scale_inv`, 'F32', [Math.ceil(rows / FP8_BLOCK), Math.ceil(columns / FP8_BLOCK)])
  }
}

function emitGqa(attention: GqaAttention, hidden: number, prefix: string, emit: Emit, project: Project): void {
  const { heads, kvHeads, headDim, bias, qkNorm } = attention
  const rows = { q_proj: heads * headDim, k_proj: kvHeads * headDim, v_proj: kvHeads * headDim }
  for (const [name, count] of Object.entries(rows)) {
    project(`${prefix}.${name}`, count, hidden)
    if (bias) emit(`${prefix}.${name}.bias`, 'BF16', [count])
  }
  project(`${prefix}.o_proj`, hidden, heads * headDim)
  if (qkNorm) {
    emit(`${prefix}.q_norm.weight`, 'BF16', [headDim])
    emit(`${prefix}.k_norm.weight`, 'BF16', [headDim])
  }
}

function emitMla(attention: MlaAttention, hidden: number, prefix: string, emit: Emit, project: Project): void {
  const { heads, qLoraRank, kvLoraRank, nopeDim, ropeDim, valueDim, inverseFrequencies } = attention
  project(`${prefix}.q_a_proj`, qLoraRank, hidden)
  emit(`${prefix}.q_a_layernorm.weight`, 'BF16', [qLoraRank])
  project(`${prefix}.q_b_proj`, heads * (nopeDim + ropeDim), qLoraRank)
  project(`${prefix}.kv_a_proj_with_mqa`, kvLoraRank + ropeDim, hidden)
  emit(`${prefix}.kv_a_layernorm.weight`, 'BF16', [kvLoraRank])
  project(`${prefix}.kv_b_proj`, heads * (nopeDim + valueDim), kvLoraRank)
  project(`${prefix}.o_proj`, hidden, heads * valueDim)
  if (inverseFrequencies !== undefined) emit(`${prefix}.rotary_emb.inv_freq`, 'BF16', [inverseFrequencies])
}

function emitMlp(intermediate: number, hidden: number, prefix: string, project: Project): void {
  project(`${prefix}.gate_proj`, intermediate, hidden)
  project(`${prefix}.up_proj`, intermediate, hidden)
  project(`${prefix}.down_proj`, hidden, intermediate)
}

function emitMoe(moe: MoeLayers, hidden: number, prefix: string, emit: Emit, project: Project): void {
  emit(`${prefix}.gate.weight`, 'BF16', [moe.experts, hidden])
  if (moe.correctionBias) emit(`${prefix}.gate.e_score_correction_bias`, 'F32', [moe.experts])
  for (let expert = 0; expert < moe.experts; expert++) {
    emitMlp(moe.intermediate, hidden, `${prefix}.experts.${expert}`, project)
  }
  if (moe.sharedExperts > 0) emitMlp(moe.sharedExperts * moe.intermediate, hidden, `${prefix}.shared_experts`, project)
}
