import { CkptError, DTYPE_BITS, type DType, tensorBytes } from '@ckpt/contract'
import { describe, expect, it } from 'vitest'
import { MODELS, checkpointTensors, model, resolveScale, scaleTo, scaledBytes, sharedManifest } from './index.ts'

const GIB = 2 ** 30

describe.each(MODELS)('$title', (entry) => {
  const tensors = checkpointTensors(entry)
  const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  const elements: Partial<Record<DType, number>> = {}
  for (const { dtype, bytes: size } of tensors) elements[dtype] = (elements[dtype] ?? 0) + (size * 8) / DTYPE_BITS[dtype]

  it('has as many tensors, bytes and parameters as the published checkpoint', () => {
    const { published } = entry
    expect(published).toBeDefined()
    expect(tensors).toHaveLength(published!.tensors!)
    if (published!.bytes !== undefined) expect(bytes).toBe(published!.bytes)
    if (published!.parametersByDtype !== undefined) expect(elements).toEqual(published!.parametersByDtype)
    if (published!.fileBytes !== undefined) {
      const headerBytesPerTensor = (published!.fileBytes - bytes) / tensors.length
      expect(headerBytesPerTensor).toBeGreaterThan(100)
      expect(headerBytesPerTensor).toBeLessThan(200)
    }
    // Every model must be compared with a published byte count in one of these ways.
    expect(published!.bytes ?? published!.parametersByDtype).toBeDefined()
    if (published!.parameters !== undefined) {
      expect(Object.values(elements).reduce((sum, count) => sum + count, 0)).toBe(published!.parameters)
    }
  })

  it('names every tensor once and sizes it by dtype and shape', () => {
    expect(new Set(tensors.map(({ name }) => name)).size).toBe(tensors.length)
    for (const tensor of tensors) expect(tensor.bytes).toBe(tensorBytes(tensor.dtype, tensor.shape))
  })

  it.each([6 * GIB, 12 * GIB])('comes near below %d bytes with exact shapes or with fewer vocabulary rows', (budget) => {
    const scale = scaleTo(entry, budget)
    const total = scaledBytes(entry, scale)
    expect(scale.width).toBe(1)
    expect(total).toBeLessThanOrEqual(budget)
    expect(total).toBeGreaterThan(budget * 0.93)
    const small = checkpointTensors(entry, { bytes: budget })
    expect(small.reduce((sum, tensor) => sum + tensor.bytes, 0)).toBe(total)
    const shapes = new Set(tensors.map(({ dtype, shape }) => `${dtype}:${shape}`))
    const inexact = small.filter(({ dtype, shape }) => !shapes.has(`${dtype}:${shape}`)).map(({ name }) => name)
    const allowed = /mlp\.gate\.(weight|e_score_correction_bias)$|embed_tokens|lm_head|shared_head\.head/
    expect(inexact.filter((name) => !allowed.test(name))).toEqual([])
  })

  it.each([64 * 2 ** 20, 256 * 2 ** 20, GIB])('also fits %d bytes', (budget) => {
    const total = scaledBytes(entry, scaleTo(entry, budget))
    expect(total).toBeLessThanOrEqual(budget)
    expect(total).toBeGreaterThan(budget * 0.8)
  })

  it('is whole when the budget allows it', () => {
    expect(scaleTo(entry, bytes)).toEqual(resolveScale(entry))
    expect(scaledBytes(entry, scaleTo(entry, bytes - 1))).toBeLessThan(bytes)
  })
})

describe('models', () => {
  it('are found by id, title and repository', () => {
    expect(model('kimi-k2').repository).toBe('moonshotai/Kimi-K2-Instruct')
    expect(model('DeepSeek-AI/deepseek-v3.1').id).toBe('deepseek-v3.1')
    expect(() => model('gpt-5')).toThrow(/glm-4.5-air, qwen3-235b-a22b/)
  })

  it('keep dense, MoE and MTP layers when cut down', () => {
    const names = checkpointTensors(model('deepseek-v3.1'), { layers: 2, experts: 4 }).map(({ name }) => name)
    expect(names).toContain('model.layers.0.mlp.gate_proj.weight_scale_inv')
    expect(names).toContain('model.layers.1.mlp.experts.3.down_proj.weight')
    expect(names).not.toContain('model.layers.1.mlp.experts.4.down_proj.weight')
    expect(names).toContain('model.layers.2.shared_head.head.weight')
    expect(names).not.toContain('model.layers.3.input_layernorm.weight')
  })

  it('find the best pair of layers and experts', () => {
    const entry = model('glm-4.5-air')
    const budget = 8 * GIB
    const found = scaleTo(entry, budget)
    let best = 0
    for (let layers = 2; layers < 12; layers++) {
      for (let experts = 2; experts <= 128; experts++) {
        const total = scaledBytes(entry, { ...resolveScale(entry, { layers, experts }), vocab: found.vocab })
        if (total <= budget && total > best) best = total
        if (total > budget) break
      }
    }
    expect(scaledBytes(entry, found)).toBe(best)
  })

  it.each([
    [{ layers: 1 }, 'layers'],
    [{ layers: 62 }, 'layers'],
    [{ experts: 0 }, 'experts'],
    [{ experts: 257 }, 'experts'],
    [{ bytes: 1000 }, 'bytes'],
    [{ bytes: GIB, layers: 3 }, 'bytes'],
  ])('refuse %o', (options, field) => {
    const attempt = () => checkpointTensors(model('deepseek-v3.1'), options)
    expect(attempt).toThrow(CkptError)
    expect(attempt).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: expect.objectContaining({ field }) as unknown }),
    )
  })

  it('share a checkpoint out equally over ranks', () => {
    const tensors = checkpointTensors(model('llama-3.1-8b'))
    const manifest = sharedManifest('llama', tensors, 4)
    const shares = manifest.ranks.map(({ segments }) => segments[0]!.bytes)
    expect(shares.reduce((sum, share) => sum + share, 0)).toBe(16_060_522_496)
    expect(manifest.ranks.reduce((sum, rank) => sum + rank.tensors.count, 0)).toBe(tensors.length)
    const largest = Math.max(...tensors.map(({ bytes }) => bytes))
    for (const share of shares) expect(Math.abs(share - 16_060_522_496 / 4)).toBeLessThanOrEqual(largest)
  })
})
