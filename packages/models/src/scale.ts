import { CkptError, tensorBytes } from '@ckpt/contract'
import { type ResolvedScale, scaled } from './architecture.ts'
import { emitCheckpoint } from './layout.ts'
import type { Model } from './model.ts'

/** Part of a model to keep; missing options keep everything. `bytes` excludes the others. */
export interface ScaleOptions {
  /** Decoder layers (MTP layers are kept in addition). */
  readonly layers?: number
  /** Routed experts of each MoE layer. */
  readonly experts?: number
  /** Maximum size in bytes, which the checkpoint should approach as closely as possible; see {@link scaleTo}. */
  readonly bytes?: number
}

const MIN_EXPERTS = 2
const VOCAB_STEP = 64
/** Fraction of a scaled checkpoint that embedding and head may use. */
const VOCAB_SHARE = 1 / 8
const MAX_WIDTH = 32

/**
 * Returns full or partial sizes of a model. With fewer layers than the model has, one of the dense layers at the front is kept
 * if it has any. Layers are renumbered and MTP layers follow the last one, as in a published checkpoint with such a config.
 *
 * @throws CkptError `INVALID_ARGUMENT` for values out of range.
 */
export function resolveScale(model: Model, options: ScaleOptions = {}): ResolvedScale {
  const { architecture } = model
  const { layers = architecture.layers, experts = architecture.moe?.experts ?? 0, bytes } = options
  if (bytes !== undefined) {
    if (options.layers !== undefined || options.experts !== undefined) {
      throw invalid('bytes', `bytes cannot be combined with layers or experts (${model.id})`)
    }
    return scaleTo(model, bytes)
  }
  const fewest = fewestLayers(model)
  if (!Number.isInteger(layers) || layers < fewest || layers > architecture.layers) {
    throw invalid('layers', `${model.id} can be reduced to ${fewest} … ${architecture.layers} layers, not ${layers}`)
  }
  const most = architecture.moe?.experts ?? 0
  if (!Number.isInteger(experts) || experts > most || experts < Math.min(most, 1)) {
    throw invalid('experts', `${model.id} can be reduced to ${Math.min(most, 1)} … ${most} experts, not ${experts}`)
  }
  return { layers, denseLayers: denseLayers(model, layers), experts, vocab: architecture.vocab, width: 1 }
}

/**
 * Returns the scale whose checkpoint is as close to `bytes` as possible without exceeding it. If embedding and head would take
 * more than an eighth of `bytes`, rows of them are left out, so that the remainder is still mostly layers and experts as in the
 * published checkpoint. Then the rule tries all numbers of layers (at least one dense and one MoE layer) and experts (at least
 * two). It takes the pair with the largest total that fits, among equals the one with more layers. The remaining space is
 * filled with rows again. Only if the smallest pair does not fit, hidden, intermediate and latent sizes are halved (`width` 2,
 * 4 … 32) until it does: all other shapes are exact whenever `width` is 1.
 *
 * @throws CkptError `INVALID_ARGUMENT` if not even the smallest scale fits.
 */
export function scaleTo(model: Model, bytes: number): ResolvedScale {
  const { architecture } = model
  const layers = fewestLayers(model)
  const experts = Math.min(MIN_EXPERTS, architecture.moe?.experts ?? 0)
  const smallest = { layers, denseLayers: denseLayers(model, layers), experts, vocab: architecture.vocab, width: 1 }
  const whole = resolveScale(model)
  if (scaledBytes(model, whole) <= bytes) return whole
  let least = Infinity
  for (let width = 1; width <= MAX_WIDTH; width *= 2) {
    const fewest = { ...smallest, width }
    const rowBytes = (scaledBytes(model, fewest) - scaledBytes(model, { ...fewest, vocab: 0 })) / architecture.vocab
    const rows = Math.floor((bytes * VOCAB_SHARE) / rowBytes / VOCAB_STEP) * VOCAB_STEP
    const start = { ...fewest, vocab: Math.min(architecture.vocab, Math.max(VOCAB_STEP, rows)) }
    least = scaledBytes(model, start)
    if (least > bytes) continue
    const found = largestWithin(model, start, bytes)
    const more = Math.floor((bytes - scaledBytes(model, found)) / rowBytes / VOCAB_STEP) * VOCAB_STEP
    return { ...found, vocab: Math.min(architecture.vocab, found.vocab + more) }
  }
  throw invalid('bytes', `${model.id} needs at least ${least} bytes, not ${bytes}`)
}

/** Sum of the tensors' bytes at a scale. */
export function scaledBytes(model: Model, scale: ResolvedScale): number {
  let total = 0
  emitCheckpoint(scaled(model.architecture, scale), (_name, dtype, shape) => {
    total += tensorBytes(dtype, shape)
  })
  return total
}

/**
 * Total bytes are linear in layers at fixed experts and linear in experts at fixed layers, so four samples determine all of
 * them.
 */
function largestWithin(model: Model, start: ResolvedScale, bytes: number): ResolvedScale {
  const { architecture } = model
  const most = architecture.moe?.experts ?? 0
  const full = { ...start, layers: architecture.layers, denseLayers: architecture.denseLayers, experts: most }
  if (scaledBytes(model, full) <= bytes) return full
  const sample = (layers: number, experts: number) =>
    scaledBytes(model, { ...start, layers, experts, denseLayers: denseLayers(model, start.layers) })
  const base = sample(start.layers, start.experts)
  const perLayer = sample(start.layers + 1, start.experts) - base
  const perExpert = most === 0 ? 0 : sample(start.layers, start.experts + 1) - base
  const perBoth = most === 0 ? 0 : sample(start.layers + 1, start.experts + 1) - base - perLayer - perExpert
  let best = start
  let bestBytes = base
  for (let layers = start.layers; layers < architecture.layers; layers++) {
    const more = layers - start.layers
    const fixed = base + more * perLayer
    if (fixed > bytes) break
    const step = perExpert + more * perBoth
    const experts = step === 0 ? 0 : Math.min(most - start.experts, Math.floor((bytes - fixed) / step))
    const total = fixed + experts * step
    if (total >= bestBytes) {
      best = { ...start, layers, experts: start.experts + experts }
      bestBytes = total
    }
  }
  return best
}

/** One layer of each kind that the model has. */
function fewestLayers({ architecture }: Model): number {
  return architecture.moe !== undefined && architecture.denseLayers > 0 ? 2 : 1
}

function denseLayers({ architecture }: Model, layers: number): number {
  if (layers === architecture.layers) return architecture.denseLayers
  return architecture.moe === undefined ? layers : Math.min(1, architecture.denseLayers)
}

function invalid(field: string, message: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', message, { fields: { field } })
}
