import { CkptError } from '@ckpt/contract'

/** Models that the bench of a real engine can make. */
export const ENGINE_MODELS = ['qwen3-moe', 'qwen3-moe-fp8', 'qwen3'] as const
export type EngineModel = (typeof ENGINE_MODELS)[number]

/** Shape of a checkpoint, in elements; the fields of generate_checkpoint.py. */
export interface Shape {
  readonly quantization: 'none' | 'fp8-block'
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly keyHeads: number
  readonly headDim: number
  /** Of each expert, or of the only feed-forward network. */
  readonly intermediate: number
  /** Zero for a dense model. */
  readonly experts: number
  readonly vocabulary: number
}

type Width = Omit<Shape, 'quantization' | 'layers'>

/** From the published widths of Qwen3-30B-A3B down to one that a processor answers quickly. */
const WIDTHS: readonly Width[] = [
  { hidden: 2048, heads: 32, keyHeads: 4, headDim: 128, intermediate: 768, experts: 128, vocabulary: 32_768 },
  { hidden: 1024, heads: 16, keyHeads: 4, headDim: 64, intermediate: 512, experts: 32, vocabulary: 8192 },
  { hidden: 512, heads: 8, keyHeads: 4, headDim: 64, intermediate: 256, experts: 16, vocabulary: 2048 },
  { hidden: 128, heads: 4, keyHeads: 4, headDim: 32, intermediate: 128, experts: 4, vocabulary: 1024 },
]
/** The dense model's feed-forward network is this much wider than an expert. */
const DENSE_FACTOR = 8
const MIN_LAYERS = 2
const SCALE_BLOCK = 128 * 128

/**
 * Returns the shape whose size comes closest to `bytes`: the widest of which two layers fit in.
 *
 * @throws CkptError `INVALID_ARGUMENT` if two layers of the narrowest are larger than that.
 */
export function shapeOf(model: EngineModel, bytes: number): Shape {
  for (const width of WIDTHS) {
    const shape = shaped(model, width)
    const [outer, layer] = [outerBytes(shape), layerBytes(shape)]
    const layers = Math.round((bytes - outer) / layer)
    if (layers >= MIN_LAYERS) return { ...shape, layers }
  }
  const least = shaped(model, WIDTHS.at(-1)!)
  const needed = outerBytes(least) + MIN_LAYERS * layerBytes(least)
  throw new CkptError('INVALID_ARGUMENT', `--bytes ${bytes}: ${model} needs at least ${Math.ceil(needed)} bytes`, {
    fields: { field: 'bytes' },
  })
}

function shaped(model: EngineModel, width: Width): Shape {
  const quantization = model.endsWith('-fp8') ? 'fp8-block' : 'none'
  const dense = { intermediate: width.intermediate * DENSE_FACTOR, experts: 0 }
  return { quantization, layers: MIN_LAYERS, ...width, ...(model === 'qwen3' && dense) }
}

/** Bytes of all tensors of a checkpoint. */
export function shapeBytes(shape: Shape): number {
  return outerBytes(shape) + shape.layers * layerBytes(shape)
}

function outerBytes({ vocabulary, hidden }: Shape): number {
  return 2 * (2 * vocabulary * hidden + hidden)
}

function layerBytes(shape: Shape): number {
  const { hidden, heads, keyHeads, headDim, intermediate, experts, quantization } = shape
  const attention = 2 * hidden * (heads + keyHeads) * headDim
  const linear = attention + Math.max(1, experts) * 3 * hidden * intermediate
  const plain = experts * hidden + 2 * hidden + 2 * headDim
  return (quantization === 'none' ? 2 * linear : linear + (4 * linear) / SCALE_BLOCK) + 2 * plain
}

/** Describes a model for people. */
export function describeShape(shape: Shape): { readonly title: string; readonly scale: string } {
  const kind = shape.experts === 0 ? 'Qwen3' : 'Qwen3-MoE'
  const title = `${kind} (${shape.quantization === 'none' ? 'BF16' : 'FP8 in blocks'})`
  const experts = shape.experts === 0 ? '' : ` of ${shape.experts} experts`
  return { title, scale: `${shape.layers} layers${experts}, hidden size ${shape.hidden}` }
}

/** Form of the engine's weights: the checkpoint's, or the one that vLLM's `--quantization` makes of it while loading. */
export function quantizationOf(
  { quantization }: Pick<Shape, 'quantization'>,
  engineArguments: readonly string[],
): 'none' | 'fp8-block' | `online-${string}` {
  const line = engineArguments.join(' ')
  const online = /(?:^|\s)(?:--quantization|-q)[ =](\S+)/.exec(line)?.[1]
  return quantization === 'none' && online !== undefined ? `online-${online}` : quantization
}
