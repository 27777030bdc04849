import { CkptError, DTYPE_BITS, type DType } from '@ckpt/contract'

/** A checkpoint's tensor, as far as a layout needs it. */
export interface LayoutTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly bytes: number
}

/**
 * Bytes of a tensor that this engine worker keeps, with their place: `rows` runs of `rowBytes`, contiguous in the parameter or
 * `destinationPitch` apart.
 */
export interface Placement {
  readonly parameter: string
  /** Byte offset from the start of the parameter. */
  readonly destinationOffset: number
  readonly destinationPitch: number
  /** Byte offset from the start of the tensor. */
  readonly sourceOffset: number
  readonly sourcePitch: number
  readonly rowBytes: number
  readonly rows: number
}

/** The parameters of one engine worker. */
export interface Layout {
  /** Bytes by parameter name. */
  readonly parameters: ReadonlyMap<string, number>
  /** By tensor name. */
  readonly placements: ReadonlyMap<string, Placement>
}

type Split = 'rows' | 'columns' | 'none'

interface Rule {
  readonly pattern: RegExp
  readonly split: Split
  /** Parameter that includes the tensor; `$n` are the pattern's groups. */
  readonly parameter: string
  /** Order among the parts of a parameter: first the value of this group as a number, then `order`. */
  readonly expertGroup?: number
  readonly order?: number
}

const KIND = '(weight|weight_scale_inv|bias)'

function fused(parts: readonly string[], into: string, split: Split): Rule[] {
  return parts.map((part, order) => ({
    pattern: new RegExp(`^(.*\\.)${part}\\.${KIND}$`),
    split,
    parameter: `$1${into}.$2`,
    order,
  }))
}

/**
 * Slices that vLLM keeps of Llama-, Qwen-, GLM- and DeepSeek-shaped checkpoints under tensor parallelism: experts stacked, gate
 * and up in one, q, k and v in one, column-parallel weights split by rows, row-parallel ones by columns. The first match
 * applies; tensors without a match are kept whole.
 */
const RULES: readonly Rule[] = [
  ...['gate_proj', 'up_proj'].map((part, order): Rule => ({
    pattern: new RegExp(`^(.*\\.experts\\.)(\\d+)\\.${part}\\.${KIND}$`),
    split: 'rows',
    parameter: '$1w13_$3',
    expertGroup: 2,
    order,
  })),
  {
    pattern: new RegExp(`^(.*\\.experts\\.)(\\d+)\\.down_proj\\.${KIND}$`),
    split: 'columns',
    parameter: '$1w2_$3',
    expertGroup: 2,
  },
  ...fused(['q_proj', 'k_proj', 'v_proj'], 'qkv_proj', 'rows'),
  ...fused(['gate_proj', 'up_proj'], 'gate_up_proj', 'rows'),
  ...fused(['q_a_proj', 'kv_a_proj_with_mqa'], 'fused_qkv_a_proj', 'none'),
  { pattern: /^.*\.(o_proj|down_proj)\.(weight|weight_scale_inv)$/, split: 'columns', parameter: '$&' },
  { pattern: /^.*\.(q_b_proj|kv_b_proj)\.(weight|weight_scale_inv)$/, split: 'rows', parameter: '$&' },
  { pattern: /^(.*\.)?(embed_tokens|lm_head|shared_head\.head)\.weight$/, split: 'rows', parameter: '$&' },
]

interface Part {
  readonly tensor: LayoutTensor
  readonly split: Split
  readonly expert: number
  readonly order: number
}

/**
 * Returns the slices that worker `tpRank` of `tpSize` keeps. If a dimension does not divide evenly, its whole parameter is
 * replicated.
 *
 * @throws CkptError `INVALID_ARGUMENT` if a tensor is listed twice.
 */
export function engineLayout(tensors: Iterable<LayoutTensor>, tpRank: number, tpSize: number): Layout {
  const groups = new Map<string, Part[]>()
  const seen = new Set<string>()
  for (const tensor of tensors) {
    if (seen.has(tensor.name))
      throw new CkptError('INVALID_ARGUMENT', `tensor ${tensor.name} appears twice`, { fields: { tensor: tensor.name } })
    seen.add(tensor.name)
    const { parameter, part } = partOf(tensor)
    const parts = groups.get(parameter)
    if (parts) parts.push(part)
    else groups.set(parameter, [part])
  }
  const parameters = new Map<string, number>()
  const placements = new Map<string, Placement>()
  for (const [parameter, parts] of groups) {
    parts.sort((a, b) => a.expert - b.expert || a.order - b.order)
    const divides = parts.every((part) => splits(part, tpSize))
    let offset = 0
    for (const part of parts) {
      const placement = place(part, divides ? part.split : 'none', parameter, offset, tpRank, tpSize)
      placements.set(part.tensor.name, placement)
      offset += placement.rows * placement.rowBytes
    }
    parameters.set(parameter, offset)
  }
  return { parameters, placements }
}

function partOf(tensor: LayoutTensor): { parameter: string; part: Part } {
  for (const rule of RULES) {
    const match = rule.pattern.exec(tensor.name)
    if (!match) continue
    const expert = rule.expertGroup === undefined ? 0 : Number(match[rule.expertGroup])
    const parameter = tensor.name.replace(rule.pattern, rule.parameter)
    return { parameter, part: { tensor, split: rule.split, expert, order: rule.order ?? 0 } }
  }
  return { parameter: tensor.name, part: { tensor, split: 'none', expert: 0, order: 0 } }
}

function splits({ tensor, split }: Part, tpSize: number): boolean {
  if (split === 'none') return true
  const [rows = 0, columns = 0] = tensor.shape
  if (split === 'rows') return tensor.shape.length >= 1 && rows % tpSize === 0
  return tensor.shape.length === 2 && columns % tpSize === 0 && (columns * DTYPE_BITS[tensor.dtype]) % (8 * tpSize) === 0
}

function place({ tensor }: Part, split: Split, parameter: string, offset: number, tpRank: number, tpSize: number): Placement {
  const { bytes, shape } = tensor
  if (split === 'columns' && tpSize > 1 && bytes > 0) {
    const rows = shape[0]!
    const pitch = bytes / rows
    const rowBytes = pitch / tpSize
    return {
      parameter,
      destinationOffset: offset,
      destinationPitch: rowBytes,
      sourceOffset: tpRank * rowBytes,
      sourcePitch: pitch,
      rowBytes,
      rows,
    }
  }
  const kept = split === 'rows' ? bytes / tpSize : bytes
  const sourceOffset = split === 'rows' ? tpRank * kept : 0
  return {
    parameter,
    destinationOffset: offset,
    destinationPitch: kept,
    sourceOffset,
    sourcePitch: kept,
    rowBytes: kept,
    rows: 1,
  }
}

/**
 * Returns the bytes that each engine worker keeps of each of `tensors`, in their order, at a tensor parallelism of `tpSize`,
 * according to {@link engineLayout}. All workers of an engine keep the same number.
 *
 * @throws CkptError `INVALID_ARGUMENT` if a tensor is listed twice.
 */
export function keptBytes(tensors: readonly LayoutTensor[], tpSize: number): Float64Array {
  const { placements } = engineLayout(tensors, 0, tpSize)
  return Float64Array.from(tensors, ({ name }) => {
    const { rows, rowBytes } = placements.get(name)!
    return rows * rowBytes
  })
}
