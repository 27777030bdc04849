import { describe, expect, it } from 'vitest'
import { splitArguments } from './engine-arguments.ts'
import { describeShape, quantizationOf, shapeBytes, shapeOf } from './shapes.ts'
import { planTurns, type Turn } from './turns.ts'

const brief = (turns: readonly Turn[]) =>
  turns.map(({ system, kind, checkpoint, beside }) => [system, kind, checkpoint, beside ?? ''].join(' ').trim())

describe('planTurns', () => {
  it('times updates after the first one, then makes as many while tokens are streamed', () => {
    expect(brief(planTurns({ repeat: 2, peer: false, serving: 'A' }))).toEqual([
      'ours first B',
      'ours timed A',
      'ours timed B',
      'ours streamed A',
      'ours streamed B',
    ])
  })

  it('alternates both systems, with each setting of the peer in turn', () => {
    expect(brief(planTurns({ repeat: 3, peer: true, serving: 'A' })).slice(0, 11)).toEqual([
      'ours first B',
      'peer first A auto',
      'ours timed B auto',
      'peer timed A auto',
      'peer timed B auto',
      'ours timed A auto',
      'peer first B kept',
      'ours timed A kept',
      'peer timed B kept',
      'peer timed A kept',
      'ours timed B kept',
    ])
  })

  it.each([1, 2, 5, 10])('never brings what the server has, and both systems bring both checkpoints (%i)', (repeat) => {
    const turns = planTurns({ repeat, peer: true, serving: 'B' })
    expect(turns[0]!.checkpoint).toBe('A')
    for (const [index, turn] of turns.slice(1).entries()) expect(turn.checkpoint).not.toBe(turns[index]!.checkpoint)
    for (const system of ['ours', 'peer']) {
      const brought = new Set(turns.filter((turn) => turn.system === system).map(({ checkpoint }) => checkpoint))
      expect([...brought].sort()).toEqual(['A', 'B'])
    }
    expect(turns.filter(({ system, kind }) => system === 'ours' && kind === 'timed').length).toBeGreaterThanOrEqual(repeat)
  })
})

describe('shapeOf', () => {
  it('gives 12 layers of the published widths for 15.22 GB', () => {
    const shape = shapeOf('qwen3-moe', 15.22e9)
    expect(describeShape(shape)).toEqual({
      title: 'Qwen3-MoE (BF16)',
      scale: '12 layers of 128 experts, hidden size 2048',
    })
    // The size of a checkpoint of that shape that was written.
    expect(shapeBytes(shape)).toBe(15_223_334_912)
  })

  it.each(['qwen3-moe', 'qwen3-moe-fp8', 'qwen3'] as const)('comes close to any size (%s)', (model) => {
    for (const bytes of [8e6, 60e6, 1e9, 40e9]) {
      const shape = shapeOf(model, bytes)
      expect(shape.layers).toBeGreaterThanOrEqual(2)
      expect(Math.abs(shapeBytes(shape) / bytes - 1)).toBeLessThan(0.3)
      // Blocks of scales, and heads of up to four workers, must be whole.
      for (const rows of [shape.hidden, shape.intermediate, shape.heads * shape.headDim, shape.keyHeads * shape.headDim]) {
        expect(rows % 128).toBe(0)
      }
    }
  })

  it('says which size is too small', () => {
    expect(() => shapeOf('qwen3-moe', 1000)).toThrow(/--bytes 1000: qwen3-moe needs at least \d+ bytes/)
  })
})

it('quantizationOf tells what the engine makes of weights while it loads them', () => {
  const [plain, fp8] = [shapeOf('qwen3', 8e6), shapeOf('qwen3-moe-fp8', 8e6)]
  expect(quantizationOf(plain, ['--enforce-eager', '--quantization', 'fp8'])).toBe('online-fp8')
  expect(quantizationOf(plain, ['--quantization=fp8'])).toBe('online-fp8')
  expect(quantizationOf(plain, ['--enforce-eager'])).toBe('none')
  expect(quantizationOf(fp8, ['--quantization', 'fp8'])).toBe('fp8-block')
})

describe('splitArguments', () => {
  it('keeps JSON and takes quotation marks around an argument away', () => {
    expect(splitArguments(` --a 'two words' --json {"mode":0,"x":"y"}  --b "it's" `)).toEqual([
      ...['--a', 'two words', '--json', '{"mode":0,"x":"y"}', '--b', "it's"],
    ])
    expect(splitArguments('')).toEqual([])
  })
})
