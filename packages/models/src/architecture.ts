/** Grouped-query attention: one key and value head serves several query heads. */
export interface GqaAttention {
  readonly kind: 'gqa'
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** True if the q, k and v projections have biases. */
  readonly bias: boolean
  /** True if q and k are normalised by head. */
  readonly qkNorm: boolean
}

/** Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1). */
export interface MlaAttention {
  readonly kind: 'mla'
  readonly heads: number
  readonly qLoraRank: number
  readonly kvLoraRank: number
  readonly nopeDim: number
  readonly ropeDim: number
  readonly valueDim: number
  /** Elements of the `rotary_emb.inv_freq` tensor if the published files have one. */
  readonly inverseFrequencies?: number
}

export interface MoeLayers {
  readonly experts: number
  readonly intermediate: number
  /** Experts that process every token (stored as one of this many times the width). */
  readonly sharedExperts: number
  /** True if the router has an `e_score_correction_bias` (F32). */
  readonly correctionBias: boolean
}

/** Part of a model's config.json that determines the names, shapes and dtypes of its tensors. */
export interface Architecture {
  readonly hidden: number
  readonly layers: number
  /** Number of first layers with a dense MLP (all of them if `moe` is absent). */
  readonly denseLayers: number
  readonly intermediate: number
  readonly vocab: number
  readonly attention: GqaAttention | MlaAttention
  readonly moe?: MoeLayers
  /** Multi-token-prediction layers after the last decoder layer; each has its own embedding and head. */
  readonly mtpLayers: number
  /** `fp8-128`: projections in F8_E4M3 with an F32 `weight_scale_inv` for each block of 128 x 128. */
  readonly weights: 'bf16' | 'fp8-128'
}

/** Part of a model that is kept. Tensor shapes stay exact as long as `width` is 1 and `vocab` is the full one. */
export interface ResolvedScale {
  readonly layers: number
  readonly denseLayers: number
  /** Routed experts of each MoE layer; 0 for dense models. */
  readonly experts: number
  /** Rows of the embedding and the head. */
  readonly vocab: number
  /** Divisor of hidden, intermediate and latent sizes. */
  readonly width: number
}

/** Returns `architecture` reduced to `scale`. */
export function scaled(architecture: Architecture, scale: ResolvedScale): Architecture {
  const { attention, moe } = architecture
  const { width } = scale
  return {
    ...architecture,
    layers: scale.layers,
    denseLayers: scale.denseLayers,
    vocab: scale.vocab,
    hidden: architecture.hidden / width,
    intermediate: architecture.intermediate / width,
    attention:
      attention.kind === 'mla'
        ? { ...attention, qLoraRank: attention.qLoraRank / width, kvLoraRank: attention.kvLoraRank / width }
        : attention,
    ...(moe && { moe: { ...moe, experts: scale.experts, intermediate: moe.intermediate / width } }),
  }
}
